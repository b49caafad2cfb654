//! `mayastor limits`.

use api::v1;
use clap::Subcommand;

use crate::connect::Client;
use crate::failure::Done;

/// Limits of the cluster: how full pools may become, how much is done at a time
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the limits
    #[command(after_help = "Examples:
  mayastor limits show
  mayastor limits show -o json")]
    Show,
    /// Change a limit, from now on; it is kept when the control plane starts again
    #[command(after_help = "Examples:
  mayastor limits set rebuild.per_node 2
  mayastor limits set pool.overcommit_percent 250")]
    Set {
        /// The name of the limit
        #[arg(value_name = "NAME")]
        name: String,
        /// Its new value
        #[arg(value_name = "VALUE")]
        value: u32,
    },
    /// Set a limit back to its default
    #[command(after_help = "Examples:
  mayastor limits reset rebuild.per_node")]
    Reset {
        /// The name of the limit
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let control = client.control().await?;
    let (name, value) = match command {
        Command::Show => {
            let all = control.check(control.v1().get_limits(v1::Empty {}).await)?.settings;
            let row = |s: &v1::Setting| vec![s.name.clone(), s.value.clone(), s.default.clone(), s.help.clone()];
            return client.output.list(&all, &["NAME", ">VALUE", ">DEFAULT", "MEANING"], row, "No limits found");
        }
        Command::Set { name, value } => (name, value.to_string()),
        Command::Reset { name } => (name, String::new()),
    };
    let setting = v1::Setting { name: name.clone(), value, ..Default::default() };
    let all = control.check(control.v1().set_limit(setting).await)?;
    let now = all.settings.iter().find(|s| s.name == name).map(|s| s.value.clone()).unwrap_or_default();
    client.output.made(&all, &now, format!("{name} is {now}"))
}
