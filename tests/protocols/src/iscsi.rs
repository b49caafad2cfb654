//! libiscsi's conformance tests and measuring program against devices, replicas and nexuses.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::engine::Engine;
use crate::{Result, Step, ensure, run};

/// What is skipped, one `Family.Test reason` or `Family.* reason` a line.
const SKIPS: &str = include_str!("../iscsi-skips.txt");
/// What else is skipped, or cannot pass, with blocks of 4096 bytes.
const SKIPS_4096: &str = include_str!("../iscsi-skips-4096.txt");
const NEXUS: &str = "4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11";

pub const STEPS: &[Step] = &[
    ("iscsi_device_512", |e| families(&device(e, "m", "size_mb=96")?, "")),
    ("iscsi_device_4096", |e| families(&device(e, "m", "size_mb=96&blk_size=4096")?, SKIPS_4096)),
    ("iscsi_replica", |e| families(&replica(e)?, "")),
    ("iscsi_nexus", |e| families(&nexus(e)?, "")),
    ("iscsi_discovery", discovery),
    ("iscsi_chap", chap),
    ("iscsi_digests", digests),
    ("iscsi_perf", |e| perf(&device(e, "m", "size_mb=96")?)),
    ("iscsi_restart", restart),
];

/// A device in memory, shared; its URI.
pub fn device(engine: &Engine, name: &str, options: &str) -> Result<String> {
    engine.client(&["bdev", "create", &format!("malloc:///{name}?{options}")])?;
    uri(&engine.client(&["bdev", "share", name, "iscsi"])?)
}

fn replica(engine: &Engine) -> Result<String> {
    engine.pool(512)?;
    engine.client(&["replica", "create", "pool", "r1", "--size", "96MiB", "--thin"])?;
    uri(&engine.client(&["replica", "share", "r1", "iscsi"])?)
}

/// A nexus over two replicas of this node.
pub fn nexus(engine: &Engine) -> Result<String> {
    engine.pool(512)?;
    for name in ["r1", "r2"] {
        engine.client(&["replica", "create", "pool", name, "--size", "128MiB", "--thin"])?;
    }
    engine.client(&["nexus", "create", NEXUS, "96MiB", "bdev:///r1", "bdev:///r2"])?;
    uri(&engine.client(&["nexus", "publish", NEXUS, "-p", "iscsi"])?)
}

/// The first text in an answer that is an iSCSI URI.
fn uri(answer: &Value) -> Result<String> {
    uri_of(answer, "iscsi://")
}

/// The first text in an answer that begins so.
pub fn uri_of(answer: &Value, scheme: &str) -> Result<String> {
    let found = match answer {
        Value::String(text) => Some(text.clone()).filter(|t| t.starts_with(scheme)),
        Value::Array(list) => list.iter().find_map(|v| uri_of(v, scheme).ok()),
        Value::Object(fields) => fields.values().find_map(|v| uri_of(v, scheme).ok()),
        _ => None,
    };
    found.ok_or_else(|| format!("no {scheme} in {answer}").into())
}

/// How one conformance test ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs all families, destructive ones included, over two paths. `cannot`: the list of those that cannot pass here.
fn families(uri: &str, cannot: &str) -> Result<()> {
    // It ends with an error when a test has failed; which one, its report says.
    let report = match run("iscsi-test-cu", &["--dataloss", "--fail", "-v", "-t", "ALL", uri, uri]) {
        Ok(report) => report,
        Err(error) => error.to_string(),
    };
    let outcomes = outcomes(&report);
    let begun = report.lines().filter(|line| line.trim().starts_with("Test: ")).count();
    ensure(begun > 200 && outcomes.len() == begun, || format!("{begun} begun, {} ended:\n{report}", outcomes.len()))?;
    ensure(report.contains("Run Summary"), || format!("it did not come to its end:\n{report}"))?;
    let mut wrong = Vec::new();
    let (mut passed, mut skipped) = (0, 0);
    for (name, outcome) in &outcomes {
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Skipped(_) if is_listed(SKIPS, name) => skipped += 1,
            Outcome::Skipped(_) | Outcome::Failed(_) if is_listed(cannot, name) => skipped += 1,
            Outcome::Skipped(why) => wrong.push(format!("{name} was skipped, and is not on the list: {why}")),
            Outcome::Failed(_) if name == RACE.0 && passes_alone(uri)? => passed += 1,
            Outcome::Failed(why) => wrong.push(format!("{name} failed:\n{why}")),
        }
    }
    println!("  iscsi-test-cu on {uri}: {passed} passed, {skipped} skipped as expected, {} wrong", wrong.len());
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

/// A test, and its name for `-t`, that the tool decides by chance. It sends Data-Out PDUs with wrong numbers, one command after
/// the other, and each is to fail. We end the connection; the tool connects again and repeats the command, with right numbers
/// when it has noticed the end in one place of its code, and then the command succeeds. A target that takes wrong numbers fails
/// every time.
const RACE: (&str, &str) = ("iSCSIdatasn.iSCSIDataSnInvalid", "iSCSI.iSCSIdatasn.iSCSIDataSnInvalid");

/// Whether that test passes by itself, at least once.
fn passes_alone(uri: &str) -> Result<bool> {
    for _ in 0..12 {
        let report = match run("iscsi-test-cu", &["--dataloss", "--fail", "-v", "-t", RACE.1, uri]) {
            Ok(report) => report,
            Err(error) => error.to_string(),
        };
        if outcomes(&report).get(RACE.0) == Some(&Outcome::Passed) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a list has a test, or its whole family.
fn is_listed(list: &str, name: &str) -> bool {
    let family = name.split('.').next().unwrap_or(name);
    let listed = |entry: &str| entry == name || entry.strip_suffix(".*") == Some(family);
    list.lines().filter_map(|line| line.split_once(' ')).any(|(entry, _)| listed(entry))
}

/// The tests of a verbose report, by `Family.Test`.
fn outcomes(report: &str) -> BTreeMap<String, Outcome> {
    let mut found = BTreeMap::new();
    let (mut suite, mut test, mut said) = ("", None, Vec::new());
    for line in report.lines() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix("Suite: ") {
            suite = name;
        } else if let Some(rest) = trimmed.strip_prefix("Test: ") {
            let name = rest.split(" ...").next().unwrap_or(rest);
            test = Some(format!("{suite}.{name}"));
            said = vec![rest[name.len()..].trim_start_matches(" ...").to_owned()];
        } else {
            said.push(trimmed.to_owned());
        }
        let Some(last) = said.last() else { continue };
        // What the test says may stand before the verdict, and what the next one says at its start after it.
        let is = |word| last.ends_with(word) || last.starts_with(word);
        let (passed, failed) = (is("passed"), is("FAILED"));
        if let Some(name) = test.take_if(|_| passed || failed) {
            let skip = said.iter().find(|s| s.contains("[SKIPPED]")).cloned();
            let outcome = match skip {
                _ if failed => Outcome::Failed(said.join("\n")),
                Some(why) => Outcome::Skipped(why),
                None => Outcome::Passed,
            };
            found.insert(name, outcome);
            said.clear();
        }
    }
    found
}

/// `iscsi://host:port` of a URI.
fn portal(uri: &str) -> &str {
    let end = uri["iscsi://".len()..].find('/').map_or(uri.len(), |at| at + "iscsi://".len());
    &uri[..end]
}

fn discovery(engine: &mut Engine) -> Result<()> {
    let uris = [device(engine, "m1", "size_mb=8")?, device(engine, "m2", "size_mb=16")?];
    let said = run("iscsi-ls", &["-s", portal(&uris[0])])?;
    for text in ["iqn.2019-05.io.openebs:m1", "iqn.2019-05.io.openebs:m2", "DIRECT_ACCESS"] {
        ensure(said.contains(text), || format!("iscsi-ls does not say {text}:\n{said}"))?;
    }
    engine.client(&["bdev", "unshare", "m2"])?;
    let said = run("iscsi-ls", &[portal(&uris[0])])?;
    ensure(!said.contains("openebs:m2"), || format!("it is still listed:\n{said}"))?;
    let said = run("iscsi-inq", &[&uris[0]])?;
    ensure(said.contains("MAYADATA") && said.contains("Mayastor Device"), || said)
}

/// Puts names into a URI.
fn with(uri: &str, who: &str) -> String {
    uri.replacen("iscsi://", &format!("iscsi://{who}@"), 1)
}

fn chap(engine: &mut Engine) -> Result<()> {
    let uri = device(engine, "m", "size_mb=8")?;
    let file = engine.file("chap");
    fs::write(&file, "alice alices-secret-1\nstorage storages-secret\n")?;
    engine.restart(&["--iscsi-chap", &file.display().to_string()])?;
    let refused = run("iscsi-inq", &[&uri]);
    ensure(refused.is_err(), || "who says no name is let in".into())?;
    ensure(run("iscsi-inq", &[&with(&uri, "alice%wrong-secret-1")]).is_err(), || "a wrong secret is taken".into())?;
    let one_way = with(&uri, "alice%alices-secret-1");
    run("iscsi-inq", &[&one_way])?;
    run("iscsi-inq", &[&format!("{one_way}?target_user=storage&target_password=storages-secret")])?;
    let impostor = run("iscsi-inq", &[&format!("{one_way}?target_user=storage&target_password=another-secret")]);
    ensure(impostor.is_err(), || "the target proves something else than it should".into())
}

fn digests(engine: &mut Engine) -> Result<()> {
    let uri = device(engine, "m", "size_mb=96")?;
    run("iscsi-test-cu", &["--dataloss", "--fail", "-n", "-t", "ALL.Write16", &format!("{uri}?header_digest=crc32c")])?;
    Ok(())
}

fn perf(uri: &str) -> Result<()> {
    for options in [&["-b", "8", "-m", "32", "-r"][..], &["-b", "256", "-m", "8"]] {
        let said = run("iscsi-perf", &[options, &["-t", "3", uri]].concat())?;
        let average = said.split("iops average").last().unwrap_or_default().trim();
        println!("  iscsi-perf {}: {}", options.join(" "), average.split(')').next().unwrap_or_default());
        ensure(said.contains("finished"), || said)?;
    }
    Ok(())
}

/// What was shared is shared again after a kill, at the same place.
fn restart(engine: &mut Engine) -> Result<()> {
    let before = nexus(engine)?;
    engine.restart(&[])?;
    // The nexus is opened again in the background.
    let mut last = None;
    for _ in 0..100 {
        match run("iscsi-inq", &[&before]) {
            Ok(said) => return ensure(said.contains("Nexus CAS Driver"), || said),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err(last.unwrap_or_else(|| "it was not tried".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_understood() {
        let report = "
Suite: GetLBAStatus
  Test: Simple ...    [SKIPPED] GETLBASTATUS is not implemented.
passed
  Test: BeyondEol ...passed
Suite: Unmap
  Test: Simple ...FAILED
    1. test_unmap_simple.c:71  - CU_ASSERT_EQUAL(_r,0)
";
        let found = outcomes(report);
        assert!(matches!(&found["GetLBAStatus.Simple"], Outcome::Skipped(why) if why.contains("not implemented")));
        assert_eq!(found["GetLBAStatus.BeyondEol"], Outcome::Passed);
        assert!(matches!(&found["Unmap.Simple"], Outcome::Failed(_)));
    }

    #[test]
    fn each_skip_has_a_reason() {
        for line in SKIPS.lines().chain(SKIPS_4096.lines()) {
            let (name, reason) = line.split_once(' ').expect("a reason");
            assert!(name.contains('.') && reason.len() > 10, "{line}");
        }
    }

    #[test]
    fn portals() {
        assert_eq!(portal("iscsi://127.0.0.1:3260/iqn.x:y/0"), "iscsi://127.0.0.1:3260");
    }
}
