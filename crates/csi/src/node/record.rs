//! What the node plugin remembers of each volume: one file, replaced as a whole, written before anything is done.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A staged volume, or one that is being staged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The volume's address when it was staged.
    pub uri: String,
    /// Where it is staged.
    pub staging: PathBuf,
    /// Whether the device refuses writes.
    pub read_only: bool,
    /// The file system that was asked for; `None`: raw block.
    pub fs: Option<String>,
    /// How the device is attached: see [`super::attach::Transport`].
    pub transport: String,
    /// Where it is published, and whether read-only.
    pub targets: BTreeMap<PathBuf, bool>,
}

fn escape(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |b: u8| b.is_ascii_graphic() && b != b'%';
    let text = |b: &u8| if plain(*b) { (*b as char).to_string() } else { format!("%{b:02x}") };
    path.as_os_str().as_bytes().iter().map(text).collect()
}

fn unescape(text: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

impl Record {
    fn encode(&self) -> String {
        let mut text = format!("uri {}\nstaging {}\ntransport {}\n", self.uri, escape(&self.staging), self.transport);
        if self.read_only {
            text += "read-only\n";
        }
        if let Some(fs) = &self.fs {
            text += &format!("fs {fs}\n");
        }
        for (path, read_only) in &self.targets {
            text += &format!("target {} {}\n", if *read_only { "ro" } else { "rw" }, escape(path));
        }
        text + "end\n"
    }

    fn decode(text: &str) -> Option<Record> {
        let mut record = Record::default();
        let mut lines = text.lines();
        for line in &mut lines {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "uri" => record.uri = value.to_owned(),
                "staging" => record.staging = unescape(value)?,
                "transport" => record.transport = value.to_owned(),
                "read-only" => record.read_only = true,
                "fs" => record.fs = Some(value.to_owned()),
                "target" => {
                    let (mode, path) = value.split_once(' ')?;
                    record.targets.insert(unescape(path)?, mode == "ro");
                }
                "end" => return Some(record),
                _ => return None,
            }
        }
        None
    }
}

/// The folder of a volume.
pub(crate) fn folder(state: &Path, volume: Uuid) -> PathBuf {
    state.join(volume.to_string())
}

/// Reads a volume's record; `None` when there is none.
pub(crate) fn load(state: &Path, volume: Uuid) -> io::Result<Option<Record>> {
    let path = folder(state, volume).join("record");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    Record::decode(&text).map(Some).ok_or_else(wrong)
}

/// Replaces a volume's record. It need not survive a loss of power: nothing that it speaks of does.
pub(crate) fn save(state: &Path, volume: Uuid, record: &Record) -> io::Result<()> {
    let folder = folder(state, volume);
    std::fs::create_dir_all(&folder)?;
    let new = folder.join("record.new");
    std::fs::write(&new, record.encode())?;
    std::fs::rename(new, folder.join("record"))
}

/// Removes all that is kept of a volume.
pub(crate) fn forget(state: &Path, volume: Uuid) -> io::Result<()> {
    match std::fs::remove_dir_all(folder(state, volume)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_or_not_at_all() {
        let record = Record {
            uri: "nvmf://h:1/nqn".into(),
            staging: "/var/lib/a b\nc%/globalmount".into(),
            read_only: true,
            fs: Some("xfs".into()),
            transport: "user".into(),
            targets: BTreeMap::from([("/t/1 ".into(), true), ("/t/2".into(), false)]),
        };
        let text = record.encode();
        assert_eq!(Record::decode(&text), Some(record));
        assert_eq!(Record::decode(&text[..text.len() - 4]), None, "cut off");
        assert_eq!(Record::decode("strange thing\nend\n"), None);
    }
}
