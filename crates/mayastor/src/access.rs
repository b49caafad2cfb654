//! Credentials on the command line: what this process shows to others, and whom its servers let in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ::access::tls::{Client, Identity};
use ::access::tokens::write_secret;
use ::access::{Access, Dial, Gate, Secret, Tls};
use clap::{Args, ValueEnum};

use crate::failure::Failure;

/// The variable that holds a token itself.
const TOKEN: &str = "MAYASTOR_TOKEN";
/// The file that a control plane makes when it needs a token and none is given.
const GENERATED: &str = "cluster.token";

/// What this process shows to those that it calls.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Credentials")]
pub struct Credentials {
    /// A file with the token that others are shown; MAYASTOR_TOKEN may hold the token itself
    #[arg(long, global = true, value_name = "FILE", env = "MAYASTOR_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Encrypt, and trust servers whose certificates these authorities signed (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "MAYASTOR_TLS_CA", hide_env_values = true)]
    pub tls_ca: Option<PathBuf>,
    /// The name in the servers' certificates, when it is not the address that is called
    #[arg(long, global = true, value_name = "NAME", env = "MAYASTOR_TLS_NAME", hide_env_values = true)]
    pub tls_name: Option<String>,
    /// The own certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "MAYASTOR_TLS_CERT", hide_env_values = true)]
    pub tls_cert: Option<PathBuf>,
    /// The key of the own certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "MAYASTOR_TLS_KEY", hide_env_values = true)]
    pub tls_key: Option<PathBuf>,
}

impl Credentials {
    fn identity(&self) -> Result<Option<Identity>, Failure> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(Identity { certificate: certificate.clone(), key: key.clone() })),
            _ => Err(Failure::usage("--tls-cert and --tls-key belong together")),
        }
    }

    /// Those that the environment names.
    pub fn from_environment() -> Credentials {
        let file = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Credentials {
            token_file: file("MAYASTOR_TOKEN_FILE"),
            tls_ca: file("MAYASTOR_TLS_CA"),
            tls_name: std::env::var("MAYASTOR_TLS_NAME").ok().filter(|n| !n.is_empty()),
            tls_cert: file("MAYASTOR_TLS_CERT"),
            tls_key: file("MAYASTOR_TLS_KEY"),
        }
    }

    /// How others are called.
    pub fn dial(&self) -> Result<Dial, Failure> {
        let mut dial = Dial::default();
        if let Some(path) = &self.token_file {
            dial = dial.with_token_file(path).map_err(|why| Failure::usage(format!("--token-file {why}")))?;
        } else if let Ok(text) = std::env::var(TOKEN)
            && !text.is_empty()
        {
            dial = dial.with_token(Secret::parse(&text).map_err(|why| Failure::usage(format!("{TOKEN}: {why}")))?);
        }
        if let Some(ca) = &self.tls_ca {
            let client =
                Client::new(ca, self.identity()?.as_ref(), self.tls_name.as_deref()).map_err(Failure::usage)?;
            dial = dial.with_tls(client);
        }
        Ok(dial)
    }

    /// The options that say the same to another process.
    pub fn arguments(&self) -> Vec<String> {
        let files = [
            ("--token-file", &self.token_file),
            ("--tls-ca", &self.tls_ca),
            ("--tls-cert", &self.tls_cert),
            ("--tls-key", &self.tls_key),
        ];
        let mut all: Vec<String> = Vec::new();
        for (option, file) in files {
            all.extend(file.iter().flat_map(|f| [option.to_owned(), f.display().to_string()]));
        }
        all.extend(self.tls_name.iter().flat_map(|n| ["--tls-name".to_owned(), n.clone()]));
        all
    }
}

/// Whether callers must show who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// When a port can be reached from other machines
    #[default]
    Auto,
    /// Always
    On,
    /// Never: whoever reaches a port may do everything
    Off,
}

/// Whom the servers of this process let in.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Who may ask")]
pub struct Doors {
    /// Whether callers must show a token or a certificate: auto (when other machines reach a port), on, off
    ///
    /// Whoever shows the token in --token-file is a part of the cluster, with the role admin. Others get tokens with roles
    /// by `mayastor token create`.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, hide_possible_values = true)]
    pub auth: Auth,
    /// The tokens of others, as `mayastor token create` writes them; read again when it changes
    #[arg(long, value_name = "FILE", env = "MAYASTOR_TOKENS", hide_env_values = true)]
    pub tokens: Option<PathBuf>,
    /// Certificates that these authorities signed (PEM) are credentials, with the role and name in their URI:
    /// mayastor://ROLE/NAME
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// Where a process may be reached, and where it may keep a token of its own making.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What it listens on.
    pub ports: &'a [SocketAddr],
    /// A directory of its own; without one it needs to be given a token.
    pub data_dir: Option<&'a Path>,
}

impl Doors {
    /// What these options mean for a process at that place; and a sentence about it for whoever started the process.
    pub fn open(&self, own: &Credentials, place: Place<'_>) -> Result<(Access, Option<String>), Failure> {
        let tls = match own.identity()? {
            None => None,
            Some(identity) => Some(Tls::new(identity, self.tls_client_ca.clone()).map_err(Failure::usage)?),
        };
        let exposed = place.ports.iter().find(|at| !at.ip().is_loopback());
        let wanted = match self.auth {
            Auth::On => true,
            Auth::Off => false,
            Auth::Auto => exposed.is_some(),
        };
        if !wanted {
            if let Some(at) = exposed {
                tracing::warn!("--auth off: whoever reaches {at} may do everything here");
            }
            return Ok((Access { gate: Gate::default(), tls, dial: own.dial()? }, None));
        }
        let mut own = own.clone();
        let mut note = None;
        // Where the cluster's parts have certificates, those are its credential.
        if own.token_file.is_none() && self.tls_client_ca.is_none() {
            if let Some(dir) = place.data_dir {
                let path = dir.join(GENERATED);
                if !path.exists() {
                    std::fs::create_dir_all(dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
                    write_secret(&path, &Secret::generate()).map_err(Failure::failed)?;
                }
                note = Some(format!("callers need a token; engines and clients take --token-file {}", path.display()));
                own.token_file = Some(path);
            } else if self.tokens.is_none() {
                let at =
                    exposed.map_or_else(|| "--auth on".to_owned(), |at| format!("{at} is not on a loopback address"));
                return Err(Failure::usage(format!(
                    "{at}, so callers must show who they are. Give this engine the cluster's token: the control plane has \
                     made one in {GENERATED} in its data directory; copy it here and add --token-file FILE. \
                     Or, in a network where everybody may do everything: --auth off"
                )));
            }
        }
        let gate = Gate::locked(own.token_file.clone(), self.tokens.clone()).map_err(Failure::usage)?;
        let access = Access { gate, tls, dial: own.dial()? };
        if access.tls.is_none() && exposed.is_some() {
            tracing::warn!("tokens cross the network in the clear; --tls-cert, --tls-key and --tls-ca encrypt them");
        }
        Ok((access, note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(ports: &[SocketAddr]) -> Place<'_> {
        Place { ports, data_dir: None }
    }

    #[test]
    fn loopback_is_open_and_other_addresses_are_not() {
        let own = Credentials::default();
        let doors = Doors::default();
        let near: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let far: SocketAddr = "0.0.0.0:1".parse().expect("an address");
        assert!(doors.open(&own, place(&[near])).expect("open").0.gate.is_open());
        let refused = doors.open(&own, place(&[near, far])).expect_err("it needs a token").to_string();
        for word in ["0.0.0.0:1", "--token-file", "--auth off"] {
            assert!(refused.contains(word), "{refused}");
        }
        let off = Doors { auth: Auth::Off, ..Doors::default() };
        assert!(off.open(&own, place(&[far])).expect("open").0.gate.is_open());
        let on = Doors { auth: Auth::On, ..Doors::default() };
        assert!(on.open(&own, place(&[near])).is_err());
    }

    #[test]
    fn a_control_plane_makes_its_token_once() {
        let dir = std::env::temp_dir().join(format!("mayastor-doors-{}", std::process::id()));
        let far: SocketAddr = "0.0.0.0:1".parse().expect("an address");
        let open = || Doors::default().open(&Credentials::default(), Place { ports: &[far], data_dir: Some(&dir) });
        let (access, note) = open().expect("it starts");
        assert!(!access.gate.is_open() && note.expect("a sentence").contains(GENERATED));
        let token = std::fs::read_to_string(dir.join(GENERATED)).expect("a token");
        open().expect("it starts again");
        assert_eq!(std::fs::read_to_string(dir.join(GENERATED)).expect("a token"), token);
        let _ = std::fs::remove_dir_all(dir);
    }

    #[test]
    fn options_are_passed_on() {
        let own = Credentials {
            token_file: Some("/t".into()),
            tls_ca: Some("/ca".into()),
            tls_name: Some("n".into()),
            ..Credentials::default()
        };
        assert_eq!(own.arguments(), ["--token-file", "/t", "--tls-ca", "/ca", "--tls-name", "n"]);
    }
}
