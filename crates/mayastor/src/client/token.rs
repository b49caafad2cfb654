//! `mayastor token`: works on files; no server is asked.

use std::path::{Path, PathBuf};

use ::access::role::is_name;
use ::access::tokens::{self, Token};
use ::access::{Role, Secret};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::failure::{Done, Failure};
use crate::output::Output;

/// Tokens
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token; it is shown once, and the file keeps only its hash
    #[command(after_help = "Examples:
  mayastor token create alice --role operate
  mayastor token create csi --role operate --tokens /etc/mayastor/tokens --out csi.token")]
    Create {
        /// Whose it is; records of what it was used for have this name
        name: String,
        /// What it allows: read (see everything), operate (volumes), admin (everything)
        #[arg(long, value_name = "ROLE", value_enum, hide_possible_values = true)]
        role: RoleWord,
        /// Write the token into this new file, for its owner only, instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        file: File,
    },
    /// List the names and roles
    #[command(after_help = "Examples:
  mayastor token list
  mayastor token list --tokens /etc/mayastor/tokens -o json")]
    List {
        #[command(flatten)]
        file: File,
    },
    /// Take a token back: running servers refuse it from their next call on
    #[command(after_help = "Examples:
  mayastor token revoke alice")]
    Revoke {
        /// Whose
        name: String,
        #[command(flatten)]
        file: File,
    },
}

/// Where the tokens are.
#[derive(Debug, Args)]
pub struct File {
    /// The file of tokens that servers take with --tokens
    #[arg(
        long,
        value_name = "FILE",
        env = "MAYASTOR_TOKENS",
        default_value = "mayastor.tokens",
        hide_env_values = true
    )]
    tokens: PathBuf,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    /// See everything
    Read,
    /// Make, use and destroy volumes
    Operate,
    /// Everything
    Admin,
}

impl From<RoleWord> for Role {
    fn from(word: RoleWord) -> Role {
        match word {
            RoleWord::Read => Role::Read,
            RoleWord::Operate => Role::Operate,
            RoleWord::Admin => Role::Admin,
        }
    }
}

#[derive(Serialize)]
struct Row {
    name: String,
    role: String,
}

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    role: &'a str,
    token: &'a str,
}

/// Runs it.
pub fn run(command: Command, output: &Output) -> Done {
    match command {
        Command::Create { name, role, out, file } => create(&name, role.into(), out.as_deref(), &file.tokens, output),
        Command::List { file } => {
            let known = tokens::load(&file.tokens).map_err(Failure::failed)?;
            let rows: Vec<Row> = known.into_iter().map(|t| Row { name: t.name, role: t.role.to_string() }).collect();
            output.list(&rows, &["NAME", "ROLE"], |r| vec![r.name.clone(), r.role.clone()], "No tokens found")
        }
        Command::Revoke { name, file } => {
            let mut known = tokens::load(&file.tokens).map_err(Failure::failed)?;
            let before = known.len();
            known.retain(|t| t.name != name);
            if known.len() == before {
                return Err(Failure::not_found(format!("token {name} not found in {}", file.tokens.display())));
            }
            tokens::save(&file.tokens, &known).map_err(Failure::failed)?;
            output.done(format!("Revoked token {name}"))
        }
    }
}

fn create(name: &str, role: Role, out: Option<&Path>, path: &Path, output: &Output) -> Done {
    if !is_name(name) || name == ::access::gate::CLUSTER {
        let text =
            format!("{name:?} is no name for a token: 1 to 63 letters, digits, '-', '_' and '.', and not \"cluster\"");
        return Err(Failure::usage(text));
    }
    let mut known = tokens::load(path).map_err(Failure::failed)?;
    if known.iter().any(|t| t.name == name) {
        return Err(Failure::failed(format!("there is a token {name} in {}; revoke it first", path.display())));
    }
    if known.len() >= tokens::MOST {
        return Err(Failure::failed(format!("{} holds {} tokens, the most possible", path.display(), tokens::MOST)));
    }
    let secret = Secret::generate();
    known.push(Token { name: name.to_owned(), role, hash: secret.hash() });
    if let Some(out) = out {
        // First, so that no token counts that nobody has.
        tokens::write_secret(out, &secret).map_err(Failure::failed)?;
    }
    tokens::save(path, &known).map_err(Failure::failed)?;
    match out {
        Some(out) => output.done(format!("Token {name} ({role}) is in {}", out.display())),
        None => {
            let made = Made { name, role: role.word(), token: secret.expose() };
            output.made(
                &made,
                secret.expose(),
                format!("{}\nShown only now. Role {role}, kept as a hash in {}", secret.expose(), path.display()),
            )
        }
    }
}
