//! Where nexuses record their ledgers besides their members. A nexus that the control plane manages asks the control
//! plane; for any other, this node's configuration file is the store. Ledgers of managed nexuses are kept in the file
//! too, so that after a restart the node can ask the control plane whether it is still the volume's writer.

use std::rc::{Rc, Weak};

use block::Generation;
use host::LocalFuture;
use uuid::Uuid;

use super::{Node, Result};
use crate::config::LedgerConfig;
use crate::model::{Error, LedgerInfo};
use crate::volume::{LedgerError, LedgerStore, StoredLedger};

/// The configuration file as a store.
struct FileStore {
    node: Weak<Node>,
    /// The control plane, asked first.
    manager: Option<Rc<dyn LedgerStore>>,
}

impl LedgerStore for FileStore {
    fn record(&self, volume: Uuid, ledger: StoredLedger) -> LocalFuture<'static, std::result::Result<(), LedgerError>> {
        let (node, manager) = (self.node.clone(), self.manager.clone());
        Box::pin(async move {
            let gone = || LedgerError::Unavailable("the node is stopping".into());
            match manager {
                Some(manager) => {
                    manager.record(volume, ledger.clone()).await?;
                    let node = node.upgrade().ok_or_else(gone)?;
                    node.ledgers.borrow_mut().insert(volume, ledger);
                    // Only a note for the next start; the control plane has it for certain.
                    let _ = node.persist().await;
                    Ok(())
                }
                None => {
                    let node = node.upgrade().ok_or_else(gone)?;
                    let known = node.ledgers.borrow().get(&volume).cloned();
                    if known.is_some_and(|known| known.generation >= ledger.generation && known != ledger) {
                        return Err(LedgerError::Fenced);
                    }
                    node.ledgers.borrow_mut().insert(volume, ledger);
                    node.persist().await.map_err(|e| LedgerError::Unavailable(e.message))
                }
            }
        })
    }
}

impl Node {
    /// The store for a nexus.
    pub(crate) fn ledger_store(&self, managed: bool) -> Rc<dyn LedgerStore> {
        let manager = if managed { self.options.managed_ledgers.clone() } else { None };
        Rc::new(FileStore { node: self.this.clone(), manager })
    }

    /// Takes over what the caller says that the store knows, unless a newer ledger is known here. Returns what it took.
    pub(crate) fn learn_ledger(&self, volume: Uuid, ledger: LedgerInfo) -> Option<StoredLedger> {
        let ledger = StoredLedger { generation: Generation(ledger.generation), in_sync: ledger.in_sync };
        let mut ledgers = self.ledgers.borrow_mut();
        if ledgers.get(&volume).is_some_and(|known| known.generation > ledger.generation) {
            return None;
        }
        ledgers.insert(volume, ledger.clone());
        Some(ledger)
    }

    /// Forgets what was learned, when nothing came of it and nothing newer was recorded meanwhile.
    pub(crate) fn unlearn_ledger(&self, volume: Uuid, learned: Option<StoredLedger>, before: Option<StoredLedger>) {
        let mut ledgers = self.ledgers.borrow_mut();
        if learned.is_some() && ledgers.get(&volume) == learned.as_ref() {
            match before {
                Some(before) => drop(ledgers.insert(volume, before)),
                None => drop(ledgers.remove(&volume)),
            }
        }
    }

    /// Asks the control plane whether this node still is the volume's writer: a ledger that it knows already is
    /// accepted again, an old one is refused.
    pub(crate) async fn confirm_ledger(&self, volume: Uuid) -> Result<()> {
        let Some(manager) = self.options.managed_ledgers.clone() else {
            return Err(Error::unavailable("there is no control plane that manages it"));
        };
        let Some(ledger) = self.ledgers.borrow().get(&volume).cloned() else {
            return Err(Error::unavailable("the control plane has to say which of its copies are good"));
        };
        manager.record(volume, ledger).await.map_err(|error| match error {
            LedgerError::Fenced => Error::precondition("the volume was moved to another node"),
            LedgerError::Unavailable(why) => Error::unavailable(format!("the control plane cannot be asked: {why}")),
        })
    }

    /// The ledgers for the configuration file.
    pub(crate) fn ledgers_config(&self) -> Vec<LedgerConfig> {
        let ledgers = self.ledgers.borrow();
        let config = |(volume, ledger): (&Uuid, &StoredLedger)| LedgerConfig {
            volume: volume.to_string(),
            generation: ledger.generation.0,
            in_sync: ledger.in_sync.clone(),
        };
        ledgers.iter().map(config).collect()
    }

    /// Reads the ledgers of the configuration file.
    pub(crate) fn load_ledgers(&self, ledgers: Vec<LedgerConfig>) -> Result<()> {
        for LedgerConfig { volume, generation, in_sync } in ledgers {
            let uuid = Uuid::parse_str(&volume);
            let uuid = uuid.map_err(|_| Error::invalid(format!("ledger of '{volume}': not a uuid")))?;
            let ledger = StoredLedger { generation: Generation(generation), in_sync };
            self.ledgers.borrow_mut().insert(uuid, ledger);
        }
        Ok(())
    }
}
