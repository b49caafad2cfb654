//! Judges requests.
//!
//! ```text
//!   credential ── none, unknown ──► Unknown (401, UNAUTHENTICATED)
//!       └─ known ── role too low ──► TooLow (403, PERMISSION_DENIED)
//!                └─ enough ──► Caller
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use subtle::{Choice, ConditionallySelectable};

use crate::role::{Caller, Need, Role};
use crate::secret::{Hash, Secret};
use crate::tokens::{self, Token};
use crate::watched::Watched;

/// The name that the cluster's own credential has in the records.
pub const CLUSTER: &str = "cluster";

/// Judges requests. The default is open: everybody may do everything.
#[derive(Clone, Debug, Default)]
pub struct Gate(Option<Arc<Lock>>);

#[derive(Debug)]
struct Lock {
    /// The cluster's own credential: whoever shows it is one of the cluster's parts, with the role admin.
    cluster: Option<Watched<Vec<Secret>>>,
    tokens: Option<Watched<Vec<Token>>>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nobody that is known.
    Unknown(&'static str),
    /// Somebody who may not.
    TooLow {
        /// Who.
        caller: Caller,
        /// What would do.
        needs: Role,
    },
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Denied::Unknown(why) => f.write_str(why),
            Denied::TooLow { caller, needs } => {
                write!(f, "{} has the role {}; this needs {needs}", caller.name, caller.role)
            }
        }
    }
}

impl From<Denied> for tonic::Status {
    fn from(denied: Denied) -> tonic::Status {
        match &denied {
            Denied::Unknown(_) => tonic::Status::unauthenticated(denied.to_string()),
            Denied::TooLow { .. } => tonic::Status::permission_denied(denied.to_string()),
        }
    }
}

const NO_TOKEN: &str =
    "a token is needed: --token-file FILE, MAYASTOR_TOKEN, or the header Authorization: Bearer TOKEN";
const WRONG_TOKEN: &str = "this token is not known here, or not any more";

/// Tokens, one a line, of a file: the first is shown to others, all are accepted, so that one can follow another.
pub(crate) fn secrets(text: &str) -> Result<Vec<Secret>, String> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let found = lines.map(Secret::parse).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err("there is no token in it".into()) } else { Ok(found) }
}

impl Gate {
    /// A gate that lets those in who show a token of one of these files, or a certificate.
    ///
    /// # Errors
    /// A file cannot be read or understood now. Later that only means that nobody in it is let in.
    pub fn locked(cluster: Option<PathBuf>, tokens: Option<PathBuf>) -> Result<Gate, String> {
        let cluster = cluster.map(|path| Watched::new(&path, secrets));
        let tokens = tokens.map(|path| Watched::new(&path, tokens::parse));
        cluster.as_ref().map_or(Ok(()), Watched::check)?;
        tokens.as_ref().map_or(Ok(()), Watched::check)?;
        Ok(Gate(Some(Arc::new(Lock { cluster, tokens }))))
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Judges a request by its `Authorization` header and the caller that its certificate names.
    ///
    /// # Errors
    /// It is refused.
    pub fn check(
        &self,
        authorization: Option<&[u8]>,
        certified: Option<&Caller>,
        need: Need,
    ) -> Result<Caller, Denied> {
        let nobody = Caller { name: String::new(), role: Role::Admin };
        let (Some(lock), Need::Role(needs)) = (&self.0, need) else { return Ok(nobody) };
        let caller = match (authorization, certified) {
            // A token says more than the certificate of the machine that it comes from.
            (Some(header), _) => lock.find(bearer(header).ok_or(Denied::Unknown(NO_TOKEN))?),
            (None, Some(caller)) => Ok(caller.clone()),
            (None, None) => Err(Denied::Unknown(NO_TOKEN)),
        }?;
        if caller.role < needs { Err(Denied::TooLow { caller, needs }) } else { Ok(caller) }
    }
}

/// The token of a header.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(7)?;
    let token = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

impl Lock {
    /// Looks a token up. All are compared, whichever it is.
    fn find(&self, shown: &[u8]) -> Result<Caller, Denied> {
        let shown = Hash::of(shown);
        let cluster = self.cluster.as_ref().map(Watched::get).unwrap_or_default();
        let tokens = self.tokens.as_ref().map(Watched::get).unwrap_or_default();
        let is_cluster = cluster.iter().fold(Choice::from(0), |any, s| any | s.hash().matches(&shown));
        let (mut found, mut at) = (Choice::from(0), 0_u32);
        for (n, token) in (0..).zip(tokens.iter()) {
            let same = token.hash.matches(&shown);
            at = u32::conditional_select(&at, &n, same);
            found |= same;
        }
        if is_cluster.into() {
            return Ok(Caller { name: CLUSTER.into(), role: Role::Admin });
        }
        if found.into() {
            let token = &tokens[at as usize];
            return Ok(Caller { name: token.name.clone(), role: token.role });
        }
        Err(Denied::Unknown(WRONG_TOKEN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(PathBuf);
    impl Files {
        fn new(name: &str) -> Files {
            let dir = std::env::temp_dir().join(format!("mayastor-gate-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            Files(dir)
        }
    }
    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn ask(gate: &Gate, token: Option<&Secret>, need: Role) -> Result<String, Denied> {
        let header = token.map(|t| format!("Bearer {}", t.expose()));
        gate.check(header.as_deref().map(str::as_bytes), None, Need::Role(need)).map(|c| c.name)
    }

    #[test]
    fn an_open_gate_lets_everybody_in() {
        assert_eq!(ask(&Gate::default(), None, Role::Admin), Ok(String::new()));
    }

    #[test]
    fn each_role_may_do_its_part_and_tokens_come_and_go_while_it_runs() {
        let files = Files::new("roles");
        let path = files.0.join("tokens");
        let secrets: Vec<Secret> = Role::ALL.iter().map(|_| Secret::generate()).collect();
        let tokens: Vec<Token> = Role::ALL
            .iter()
            .zip(&secrets)
            .map(|(role, secret)| Token { name: role.to_string(), role: *role, hash: secret.hash() })
            .collect();
        tokens::save(&path, &tokens).expect("written");
        let gate = Gate::locked(None, Some(path.clone())).expect("a gate");
        for (has, secret) in Role::ALL.iter().zip(&secrets) {
            for needs in Role::ALL {
                let answer = ask(&gate, Some(secret), needs);
                match answer {
                    Ok(name) => assert!(*has >= needs && name == has.word()),
                    Err(Denied::TooLow { caller, needs: n }) => {
                        assert!(*has < needs && caller.role == *has && n == needs)
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        assert_eq!(ask(&gate, None, Role::Read), Err(Denied::Unknown(NO_TOKEN)));
        assert_eq!(ask(&gate, Some(&Secret::generate()), Role::Read), Err(Denied::Unknown(WRONG_TOKEN)));
        assert!(gate.check(None, None, Need::Nothing).is_ok());
        for header in ["", "Bearer", "Bearer ", "Basic abc", "bearer\t x"] {
            assert!(gate.check(Some(header.as_bytes()), None, Need::Role(Role::Read)).is_err(), "{header:?}");
        }
        // One is revoked.
        tokens::save(&path, &tokens[1..]).expect("written");
        assert_eq!(ask(&gate, Some(&secrets[0]), Role::Read), Err(Denied::Unknown(WRONG_TOKEN)));
        assert_eq!(ask(&gate, Some(&secrets[1]), Role::Read), Ok("operate".into()));
        // A file that is broken lets nobody in, and neither does one that is gone.
        std::fs::write(&path, "alice admin").expect("written");
        assert!(ask(&gate, Some(&secrets[1]), Role::Read).is_err());
        std::fs::remove_file(&path).expect("removed");
        assert!(ask(&gate, Some(&secrets[1]), Role::Read).is_err());
        assert!(Gate::locked(None, Some(path)).is_err(), "at the start that is an error");
    }

    #[test]
    fn the_clusters_token_can_follow_another() {
        let files = Files::new("cluster");
        let path = files.0.join("cluster");
        let (old, new) = (Secret::generate(), Secret::generate());
        std::fs::write(&path, format!("{}\n", old.expose())).expect("written");
        let gate = Gate::locked(Some(path.clone()), None).expect("a gate");
        assert_eq!(ask(&gate, Some(&old), Role::Admin), Ok(CLUSTER.into()));
        assert!(ask(&gate, Some(&new), Role::Read).is_err());
        std::fs::write(&path, format!("{}\n{}\n", new.expose(), old.expose())).expect("written");
        assert!(ask(&gate, Some(&old), Role::Admin).is_ok() && ask(&gate, Some(&new), Role::Admin).is_ok());
    }

    #[test]
    fn a_certificate_counts_unless_a_token_is_shown() {
        let files = Files::new("certificate");
        let path = files.0.join("cluster");
        std::fs::write(&path, Secret::generate().expose()).expect("written");
        let gate = Gate::locked(Some(path), None).expect("a gate");
        let caller = Caller { name: "node-1".into(), role: Role::Operate };
        assert_eq!(gate.check(None, Some(&caller), Need::Role(Role::Read)), Ok(caller.clone()));
        assert!(gate.check(None, Some(&caller), Need::Role(Role::Admin)).is_err());
        assert!(gate.check(Some(b"Bearer wrong"), Some(&caller), Need::Role(Role::Read)).is_err());
    }
}
