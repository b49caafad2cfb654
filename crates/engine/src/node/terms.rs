//! The terms of control planes: which one's calls are obeyed.

use super::{Node, Result};

impl Node {
    /// The highest term of a control plane that was heard of; 0: none.
    pub fn control_term(&self) -> u64 {
        self.control_term.get()
    }

    /// Remembers a term, through restarts when there is a configuration file. A lower one changes nothing.
    ///
    /// # Errors
    /// It is in force, but could not be written down.
    pub async fn heed_term(&self, term: u64) -> Result<()> {
        if term <= self.control_term.get() {
            return Ok(());
        }
        self.control_term.set(term);
        self.persist().await
    }
}
