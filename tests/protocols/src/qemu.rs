//! QEMU's own initiators: images are copied in and out, and patterns are written and read.

use std::fs;

use crate::engine::Engine;
use crate::{Result, Step, iscsi, run};

pub const STEPS: &[Step] = &[("qemu_iscsi", over_iscsi)];

/// Bytes of the image that is copied.
const IMAGE_BYTES: usize = 96 << 20;

fn over_iscsi(engine: &mut Engine) -> Result<()> {
    let uri = iscsi::nexus(engine)?;
    patterns(&uri)?;
    copies(engine, &uri)
}

/// Writes, discards and zeroes through qemu-io, and reads back.
pub fn patterns(uri: &str) -> Result<()> {
    let words = [
        "write -P 0x11 0 1M",
        "write -P 0x22 1M 3M",
        "write -P 0x33 4095k 2k",
        "read -P 0x11 0 1M",
        "flush",
        "read -P 0x22 1M 3071k",
        "read -P 0x33 4095k 2k",
        "write -z 2M 64k",
        "read -P 0 2M 64k",
        "discard 8M 1M",
        "aio_write -P 0x44 16M 4M",
        "aio_flush",
        "read -P 0x44 16M 4M",
    ];
    let mut args = vec!["-f", "raw"];
    words.iter().for_each(|word| args.extend(["-c", word]));
    args.push(uri);
    // It says so, and ends well, when a pattern is not the one that was expected.
    let said = run("qemu-io", &args)?;
    if said.contains("verification failed") || said.contains("error") { Err(said.into()) } else { Ok(()) }
}

/// An image without repetition.
pub fn image() -> Vec<u8> {
    (0..IMAGE_BYTES as u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// Copies an image in, compares it there, and copies it out.
pub fn copies(engine: &Engine, uri: &str) -> Result<()> {
    let image = engine.file("image.raw");
    let bytes = self::image();
    fs::write(&image, &bytes)?;
    let (image, back) = (image.display().to_string(), engine.file("back.raw"));
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &image, uri])?;
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, uri])?;
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", uri, &back.display().to_string()])?;
    if fs::read(&back)? == bytes { Ok(()) } else { Err("what was copied out is not what was copied in".into()) }
}
