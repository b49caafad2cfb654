//! libnbd's programs, QEMU and fio as clients of our NBD server.

use std::fs;
use std::time::Duration;

use crate::engine::Engine;
use crate::{Result, Step, ensure, qemu, run};

/// The Python that Debian packages belong to; libnbd's shell is a module of it.
const PYTHON: &str = "/usr/bin/python3";
const NEXUS: &str = "4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11";

pub const STEPS: &[Step] = &[
    ("nbd_info", info),
    ("nbd_shell_512", |e| shell(&device(e, "m", "size_mb=96")?, 512)),
    ("nbd_shell_4096", |e| shell(&device(e, "m", "size_mb=96&blk_size=4096")?, 4096)),
    ("nbd_copy", copy),
    ("nbd_fio", |e| fio(&nexus(e)?)),
    ("nbd_qemu", |e| {
        let uri = nexus(e)?;
        qemu::patterns(&uri)?;
        qemu::copies(e, &uri)
    }),
    ("nbd_restart", restart),
];

/// A device in memory, shared; its URI.
fn device(engine: &Engine, name: &str, options: &str) -> Result<String> {
    engine.client(&["bdev", "create", &format!("malloc:///{name}?{options}")])?;
    let answer = engine.client(&["bdev", "share", name, "nbd"])?;
    crate::iscsi::uri_of(&answer, "nbd://")
}

/// A nexus over two replicas of this node.
fn nexus(engine: &Engine) -> Result<String> {
    engine.pool(512)?;
    for name in ["r1", "r2"] {
        engine.client(&["replica", "create", "pool", name, "--size", "128MiB", "--thin"])?;
    }
    engine.client(&["nexus", "create", NEXUS, "96MiB", "bdev:///r1", "bdev:///r2"])?;
    let answer = engine.client(&["nexus", "publish", NEXUS, "-p", "nbd"])?;
    crate::iscsi::uri_of(&answer, "nbd://")
}

/// What nbdinfo finds is what we offer.
fn info(engine: &mut Engine) -> Result<()> {
    let uri = device(engine, "m1", "size_mb=8")?;
    device(engine, "m2", "size_mb=16&blk_size=4096")?;
    let said = run("nbdinfo", &["--json", &uri])?;
    let told: serde_json::Value = serde_json::from_str(&said)?;
    let export = &told["exports"][0];
    let expected = [
        ("export-size", serde_json::json!(8 << 20)),
        ("is_read_only", false.into()),
        ("can_flush", true.into()),
        ("can_fua", true.into()),
        ("can_trim", true.into()),
        ("can_zero", true.into()),
        ("can_fast_zero", true.into()),
        ("can_cache", true.into()),
        ("can_df", true.into()),
        ("can_multi_conn", true.into()),
        ("block_size_minimum", 512.into()),
        ("block_size_preferred", 4096.into()),
        ("contexts", serde_json::json!(["base:allocation"])),
    ];
    for (name, value) in expected {
        ensure(export[name] == value, || format!("{name} is not {value}:\n{said}"))?;
    }
    let server = uri.trim_end_matches("m1");
    let listed = run("nbdinfo", &["--list", server])?;
    ensure(listed.contains("export=\"m1\"") && listed.contains("export=\"m2\""), || listed)?;
    let map = run("nbdinfo", &["--map", &uri])?;
    ensure(map.contains("8388608") && map.contains("data"), || map)?;
    ensure(run("nbdinfo", &[&format!("{server}nothing")]).is_err(), || "an export that does not exist".into())
}

/// Every command with every flag, and what is refused.
fn shell(uri: &str, block: usize) -> Result<()> {
    let script = format!(
        r#"
import nbd, errno
B = {block}
def refused(call, *codes):
    try:
        call()
    except nbd.Error as e:
        assert e.errnum in codes, (e.errnum, e)
        return
    raise AssertionError("it was not refused")
def connect(structured=True):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies(structured)
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri("{uri}")
    return h
for structured in (True, False):
    h = connect(structured)
    assert h.get_structured_replies_negotiated() == structured
    size = h.get_size()
    data = bytes(i * 31 % 251 for i in range(4 * B))
    h.pwrite(data, 0, nbd.CMD_FLAG_FUA)
    assert h.pread(4 * B, 0) == data
    if structured:
        assert h.pread(4 * B, 0, nbd.CMD_FLAG_DF) == data
    h.zero(B, B, nbd.CMD_FLAG_NO_HOLE)
    h.zero(B, 2 * B, nbd.CMD_FLAG_FUA)
    h.trim(B, 3 * B, nbd.CMD_FLAG_FUA)
    assert h.pread(4 * B, 0) == data[:B] + bytes(3 * B)
    h.zero(32 * B, 8 * B, nbd.CMD_FLAG_FAST_ZERO)
    h.cache(4 * B, 0)
    h.flush()
    # The longest that any client may send.
    long = bytes(i % 253 for i in range(1 << 20)) * 32
    h.pwrite(long, 8 << 20)
    assert h.pread(32 << 20, 8 << 20) == long
    h.zero(64 << 20, 8 << 20)
    assert h.pread(32 << 20, 8 << 20) == bytes(32 << 20)
    refused(lambda: h.pread(B, size), errno.EINVAL)
    refused(lambda: h.pwrite(bytes(B), size), errno.ENOSPC)
    refused(lambda: h.zero(B, size), errno.ENOSPC)
    refused(lambda: h.trim(B, size), errno.EINVAL)
    refused(lambda: h.pread(B, 1), errno.EINVAL)
    refused(lambda: h.pwrite(bytes(B - 1), 0), errno.EINVAL)
    refused(lambda: h.pread(B, 0, 0x8000), errno.EINVAL)
    if structured:
        found = []
        h.block_status(size, 0, lambda context, offset, entries, err: found.append((context, offset, list(entries))))
        assert found == [("base:allocation", 0, [size, 0])], found
    h.shutdown()
# Many at a time on two connections: a flush on the one covers what was answered on the other.
a, b = connect(), connect()
assert a.can_multi_conn()
for n in range(500):
    a.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n % 256]) * B), n * B, lambda err: 1)
while a.aio_in_flight() > 0:
    a.poll(-1)
b.flush()
assert all(b.pread(B, n * B) == bytes([n % 256]) * B for n in range(500))
print("all of it holds")
"#
    );
    let said = run(PYTHON, &["-c", &script])?;
    ensure(said.contains("all of it holds"), || said)
}

/// Copies an image in over several connections, and out again.
fn copy(engine: &mut Engine) -> Result<()> {
    let uri = nexus(engine)?;
    let (image, back) = (engine.file("image.raw"), engine.file("back.raw"));
    let bytes = qemu::image();
    fs::write(&image, &bytes)?;
    let options = ["--connections=4", "--flush", "--requests=32"];
    run("nbdcopy", &[&options[..], &[&image.display().to_string(), &uri]].concat())?;
    run("nbdcopy", &[&options[..], &[&uri, &back.display().to_string()]].concat())?;
    ensure(fs::read(&back)? == bytes, || "what was copied out is not what was copied in".into())
}

/// fio's own client, with checksums.
fn fio(uri: &str) -> Result<()> {
    let said = run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={uri}"),
            "--rw=randwrite",
            "--bssplit=4k/70:64k/20:1m/10",
            "--size=64m",
            "--iodepth=32",
            "--verify=crc32c",
            "--verify_state_save=0",
            "--verify_fatal=1",
            "--do_verify=1",
            "--fsync=64",
        ],
    )?;
    ensure(said.contains("err= 0"), || said)
}

/// What was published is published again after a kill, at the same place, with what was flushed.
fn restart(engine: &mut Engine) -> Result<()> {
    let uri = nexus(engine)?;
    let write = "h.pwrite(b'7' * 4096, 0, nbd.CMD_FLAG_FUA)";
    run(PYTHON, &["-m", "nbd", "-u", &uri, "-c", write])?;
    engine.restart(&[])?;
    let mut last = None;
    for _ in 0..100 {
        match run(PYTHON, &["-m", "nbd", "-u", &uri, "-c", "assert h.pread(4096, 0) == b'7' * 4096"]) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(last.unwrap_or_else(|| "it was not tried".into()))
}
