//! The architecture as a table: which crate may use which (ARCHITECTURE.md, section 2).

use std::collections::BTreeMap;
use std::process::Command;

use crate::{Result, shell};

/// Each crate and the crates of this workspace that it may use. Tests may use `sim` and `ring` besides.
const MAY_USE: &[(&str, &[&str])] = &[
    ("block", &[]),
    ("host", &["block"]),
    ("nvme", &["block"]),
    ("iscsi", &["block"]),
    ("nbd", &["block"]),
    ("nexus", &["block"]),
    ("plan", &["block"]),
    ("pool", &["block", "host"]),
    ("engine", &["block", "host", "iscsi", "nbd", "nvme", "nexus", "pool"]),
    ("ring", &["block", "host"]),
    ("sim", &["block", "host", "engine", "plan"]),
    ("proof", &["block", "host", "engine", "nexus", "plan", "pool", "sim"]),
    ("api", &[]),
    ("access", &["api"]),
    ("control", &["access", "api", "block", "plan"]),
    ("csi", &["access", "api", "block"]),
    ("operator", &["api", "control"]),
    (
        "mayastor",
        &["access", "api", "block", "control", "csi", "engine", "host", "operator", "plan", "pool", "proof", "ring"],
    ),
    ("bench", &["api", "block", "engine", "host", "nvme", "pool", "ring"]),
    ("chaos", &["block", "engine", "host", "pool", "ring"]),
    ("csitest", &["api"]),
    ("guest", &[]),
    ("kubernetes", &[]),
    ("page", &[]),
    ("protocols", &[]),
    ("xtask", &[]),
];

/// Fails on an edge that the table does not have, and on a crate that it does not know.
pub fn check() -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .current_dir(shell::root())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut edges = 0;
    for package in metadata["packages"].as_array().ok_or("cargo metadata has no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = table.get(name) else {
            wrong.push(format!("{name}: a crate that the table in xtask/src/layers.rs does not know"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev";
            if dependency["path"].is_null() {
                continue;
            }
            edges += 1;
            let excused = for_tests && ["sim", "ring", "host"].contains(&used);
            if !allowed.contains(&used) && !excused {
                wrong.push(format!("{name} -> {used}: not an edge of the architecture"));
            }
        }
    }
    if wrong.is_empty() {
        println!("layers: {} crates, {edges} edges, all as in the architecture", table.len());
        return Ok(());
    }
    Err(wrong.join("\n").into())
}
