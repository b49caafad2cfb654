//! The file of tokens: who has one, with which role; of the token itself only its hash.
//!
//! ```text
//! mayastor-tokens 1
//! alice operate ba7816bf…15ad
//! ```
//!
//! The first line is the format and its version; `#` begins a comment. It is replaced as a whole, never changed in place.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::role::{Role, is_name};
use crate::secret::{Hash, Secret};

/// The first line.
const HEAD: &str = "mayastor-tokens 1";
/// How many tokens a file may hold: each request is compared with all of them.
pub const MOST: usize = 1000;

/// A line of the file.
#[derive(Clone, Debug)]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// The hash of its text.
    pub hash: Hash,
}

/// Reads the text of a file.
///
/// # Errors
/// Another format, a line that is not a token, a name twice, more than [`MOST`]: then nothing in it counts.
pub fn parse(text: &str) -> Result<Vec<Token>, String> {
    let mut lines = text.lines().enumerate().map(|(n, l)| (n + 1, l.trim()));
    let mut lines = lines.by_ref().filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    match lines.next() {
        Some((_, head)) if head == HEAD => {}
        _ => return Err(format!("it does not begin with the line {HEAD:?}")),
    }
    let mut tokens: Vec<Token> = Vec::new();
    for (n, line) in lines {
        let token = token(line).map_err(|why| format!("line {n}: {why}"))?;
        if tokens.iter().any(|t| t.name == token.name) {
            return Err(format!("line {n}: {:?} is there twice", token.name));
        }
        tokens.push(token);
    }
    if tokens.len() > MOST { Err(format!("it has more than {MOST} tokens")) } else { Ok(tokens) }
}

fn token(line: &str) -> Result<Token, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, role, hash] = words[..] else { return Err("a line is NAME ROLE HASH".into()) };
    if !is_name(name) {
        return Err(format!("{name:?} is no name"));
    }
    let hash = Hash::parse(hash).ok_or("the hash is not 64 hexadecimal digits")?;
    Ok(Token { name: name.to_owned(), role: role.parse()?, hash })
}

/// Reads a file; one that is not there has no tokens.
///
/// # Errors
/// It cannot be read or understood.
pub fn load(path: &Path) -> Result<Vec<Token>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(wrong),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(wrong(e.to_string())),
    }
}

/// Writes a file, for its owner only. A crash leaves the old one or the new one.
///
/// # Errors
/// It cannot be written.
pub fn save(path: &Path, tokens: &[Token]) -> Result<(), String> {
    let mut text = format!("{HEAD}\n");
    for t in tokens {
        text += &format!("{} {} {}\n", t.name, t.role, t.hash);
    }
    write(path, &text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes a token into a file of its own, for its owner only.
///
/// # Errors
/// It cannot be written, or there is such a file.
pub fn write_secret(path: &Path, secret: &Secret) -> Result<(), String> {
    if path.exists() {
        return Err(format!("{}: it exists; remove it first, or choose another", path.display()));
    }
    write(path, &format!("{}\n", secret.expose())).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let _ = std::fs::remove_file(new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str) -> String {
        format!("{name} read {}\n", Hash::of(name.as_bytes()))
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let dir = std::env::temp_dir().join(format!("mayastor-tokens-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("tokens");
        assert!(load(&path).expect("none yet").is_empty());
        let secret = Secret::generate();
        let tokens = vec![Token { name: "alice".into(), role: Role::Operate, hash: secret.hash() }];
        save(&path, &tokens).expect("it is written");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o777, 0o600);
        let read = load(&path).expect("it is read");
        assert_eq!((read.len(), read[0].name.as_str(), read[0].role), (1, "alice", Role::Operate));
        assert!(bool::from(read[0].hash.matches(&secret.hash())));
        let text = std::fs::read_to_string(&path).expect("it is there");
        assert!(!text.contains(secret.expose()), "the token itself is not kept");
        let own = dir.join("own");
        write_secret(&own, &secret).expect("it is written");
        assert!(write_secret(&own, &secret).is_err(), "nothing is overwritten");
        let _ = std::fs::remove_dir_all(dir);
    }

    #[test]
    fn a_file_counts_as_a_whole_or_not_at_all() {
        let good = format!("# who\n{HEAD}\n\n{}# more\n{}", line("a"), line("b"));
        assert_eq!(parse(&good).expect("valid").len(), 2);
        for wrong in [
            String::new(),
            line("a"),
            format!("mayastor-tokens 2\n{}", line("a")),
            format!("{HEAD}\n{}{}", line("a"), line("a")),
            format!("{HEAD}\na read"),
            format!("{HEAD}\na root {}", Hash::of(b"a")),
            format!("{HEAD}\na read 1234"),
            format!("{HEAD}\n{}", (0..=MOST).map(|n| line(&format!("n{n}"))).collect::<String>()),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:.80}");
        }
    }
}
