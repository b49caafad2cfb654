//! `mayastor config`.

use api::v1;
use clap::Subcommand;

use crate::connect::Client;
use crate::failure::Done;
use crate::output::Output;

/// Settings of a running engine
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all settings, or one
    #[command(after_help = "Examples:
  mayastor config show
  mayastor config show nexus.error_threshold")]
    Show {
        /// The name of one setting
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Change a setting, from now on
    #[command(after_help = "Examples:
  mayastor config set nexus.error_threshold 32
  mayastor config set rebuild.tasks 8")]
    Set {
        /// The name of the setting
        #[arg(value_name = "NAME")]
        name: String,
        /// Its new value
        #[arg(value_name = "VALUE", allow_hyphen_values = true)]
        value: String,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let engine = client.engine().await?;
    match command {
        Command::Show { name } => {
            let mut settings = engine.check(engine.v1().get_config(v1::Empty {}).await)?.settings;
            if let Some(name) = name {
                settings.retain(|setting| setting.name == name);
                if settings.is_empty() {
                    return Err(engine.missing(format!("setting {name:?}")));
                }
            }
            show(&settings, &client.output)
        }
        Command::Set { name, value } => {
            let setting = v1::Setting { name: name.clone(), value: value.clone(), ..Default::default() };
            let config = engine.check(engine.v1().set_config(setting).await)?;
            let now = config.settings.iter().find(|setting| setting.name == name).map_or(value, |s| s.value.clone());
            client.output.made(&config, &now, format!("{name} is {now}"))
        }
    }
}

fn show(settings: &[v1::Setting], output: &Output) -> Done {
    let row = |s: &v1::Setting| vec![s.name.clone(), s.value.clone(), s.default.clone(), s.help.clone()];
    output.list(settings, &["NAME", ">VALUE", ">DEFAULT", "MEANING"], row, "No settings found")
}
