//! The image of the story: a real ext4 file system when its tools are there, else blocks that say where they belong.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Done, Failure};

/// Where Debian keeps the tools, which is not in everybody's path.
const SYSTEM_PATHS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// See the module.
pub enum Content {
    /// An ext4 file system with so many files.
    FileSystem {
        /// How many files it holds.
        files: u32,
    },
    /// Blocks of noise, each with its number.
    Blocks,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::FileSystem { files } => write!(f, "an ext4 file system with {files} files"),
            Content::Blocks => write!(f, "an image of numbered blocks (there is no mkfs.ext4 here)"),
        }
    }
}

fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(SYSTEM_PATHS.map(PathBuf::from));
    all.map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn cannot(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |e| Failure::failed(format!("{path} cannot be written: {e}"))
}

/// Bytes that do not compress and depend on the seed (splitmix64).
fn noise(seed: u64, out: &mut [u8]) {
    let mut state = seed;
    for chunk in out.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
    }
}

impl Content {
    /// Makes an image of `bytes` bytes.
    pub fn make(path: &Path, bytes: u64) -> Result<Content, Failure> {
        match tool("mkfs.ext4") {
            Some(mkfs) => file_system(&mkfs, path, bytes),
            None => blocks(path, bytes).map(|()| Content::Blocks),
        }
    }

    /// Lets e2fsck judge an image, where that makes sense: its verdict.
    pub async fn check_file_system(&self, image: &Path) -> Result<Option<String>, Failure> {
        let (Content::FileSystem { .. }, Some(e2fsck)) = (self, tool("e2fsck")) else { return Ok(None) };
        let image = image.to_owned();
        let run = move || Command::new(e2fsck).arg("-fn").arg(image).output();
        let done = tokio::task::spawn_blocking(run).await.map_err(Failure::failed)?.map_err(Failure::failed)?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stdout);
            return Err(Failure::failed(format!("e2fsck found damage ({}): {said}", done.status)));
        }
        Ok(Some("the file system is clean".to_owned()))
    }
}

/// A file system made from a directory that takes about a half of it.
fn file_system(mkfs: &Path, path: &Path, bytes: u64) -> Result<Content, Failure> {
    const FILE: usize = 256 << 10;
    let dir = path.with_extension("dir");
    let mut data = vec![0; FILE];
    let files = u32::try_from(bytes / 2 / FILE as u64).unwrap_or(u32::MAX);
    for n in 0..files {
        let folder = dir.join(format!("folder-{:02}", n % 16));
        let file = folder.join(format!("file-{n:05}"));
        noise(u64::from(n), &mut data);
        // Not all of one size.
        let len = FILE - (n as usize % 7) * 1111;
        fs::create_dir_all(&folder).and_then(|()| fs::write(&file, &data[..len])).map_err(cannot(&file))?;
    }
    let mut make = Command::new(mkfs);
    make.arg("-q").arg("-F").arg("-d").arg(&dir).arg(path).arg(format!("{}k", bytes / 1024));
    let done = make.output().map_err(|e| Failure::failed(format!("{} cannot be run: {e}", mkfs.display())))?;
    // The image has it all.
    let _ = fs::remove_dir_all(&dir);
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(Failure::failed(format!("mkfs.ext4 failed ({}): {said}", done.status)));
    }
    // mkfs leaves the file shorter when the end of the file system is a hole.
    File::options().write(true).open(path).and_then(|f| f.set_len(bytes)).map_err(cannot(path))?;
    Ok(Content::FileSystem { files })
}

fn blocks(path: &Path, bytes: u64) -> Done {
    let mut file = BufWriter::new(File::create(path).map_err(cannot(path))?);
    let mut block = [0; 4096];
    for n in 0..bytes / 4096 {
        noise(n, &mut block);
        block[..8].copy_from_slice(&n.to_le_bytes());
        file.write_all(&block).map_err(cannot(path))?;
    }
    file.flush().map_err(cannot(path))
}
