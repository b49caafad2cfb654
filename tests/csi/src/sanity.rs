//! The specification's own suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::{Args, Result};

const MODULE: &str = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.4.0";
/// The specs that are not run, each with its reason.
const SKIPPED: &str = include_str!("../skipped.txt");

/// Builds the suite, once.
fn build(folder: &Path) -> Result<PathBuf> {
    let bin = folder.join("bin");
    let suite = bin.join("csi-sanity");
    if suite.exists() {
        return Ok(suite);
    }
    fs::create_dir_all(&bin)?;
    let path = format!("{}:/usr/local/go/bin", std::env::var("PATH").unwrap_or_default());
    let status = Command::new("sh")
        .args(["-c", &format!("exec go install {MODULE}")])
        .env("PATH", path)
        .env("GOBIN", bin.canonicalize()?)
        .status()?;
    if !status.success() {
        return Err("csi-sanity cannot be built: Go 1.25 or later is needed (https://go.dev)".into());
    }
    Ok(suite)
}

/// What became of a spec.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

/// The names and outcomes in a JUnit report.
fn outcomes(report: &str) -> Vec<(String, Outcome)> {
    let mut found = Vec::new();
    for case in report.split("<testcase ").skip(1) {
        let case = case.split("</testcase>").next().unwrap_or(case);
        let attribute = |key: &str| {
            let value = case.split(&format!("{key}=\"")).nth(1).and_then(|v| v.split('"').next());
            value.unwrap_or_default().replace("&#xA;", "\n").replace("&#34;", "\"")
        };
        let outcome = match attribute("status").as_str() {
            "passed" => Outcome::Passed,
            "skipped" | "pending" => Outcome::Skipped,
            _ => Outcome::Failed(attribute("message")),
        };
        // Set-up and tear-down of the suite are no specs.
        if attribute("name").starts_with("[It]") {
            found.push((attribute("name"), outcome));
        }
    }
    found
}

/// Runs the suite; a failure, or a skip that is not in the list, is an error, and so is a line of the list that no spec
/// needs any more.
pub async fn run(cluster: &mut Cluster, args: &Args) -> Result<()> {
    let suite = args.suite.clone().map_or_else(|| build(&args.folder), Ok)?;
    cluster.start_node(None).await?;
    let at = |name: &str| cluster.folder.join(name);
    fs::write(at("parameters.yaml"), "repl: \"2\"\nthin: \"true\"\n")?;
    fs::write(at("mutable.yaml"), "repl: \"1\"\n")?;
    let report = at("sanity.xml");
    let _ = fs::remove_file(&report);
    let option = |name: &str, value: String| format!("--csi.{name}={value}");
    let path = |name: &str| at(name).display().to_string();
    let output = tokio::process::Command::new(suite)
        .arg(option("endpoint", path("node.sock")))
        .arg(option("controllerendpoint", path("controller.sock")))
        .arg(option("mountdir", path("mounts/sanity-target")))
        .arg(option("stagingdir", path("mounts/sanity-staging")))
        .arg(option("testvolumeparameters", path("parameters.yaml")))
        .arg(option("testvolumemutableparameters", path("mutable.yaml")))
        .arg(option("testvolumesize", (64 << 20).to_string()))
        .arg(option("testnodevolumeattachlimit", "true".into()))
        .arg("--ginkgo.no-color")
        .arg(format!("--ginkgo.junit-report={}", report.display()))
        .output()
        .await?;
    fs::write(at("sanity.log"), [output.stdout, output.stderr].concat())?;
    let outcomes = outcomes(&fs::read_to_string(&report)?);
    let lines = SKIPPED.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let reasons: Vec<(&str, &str)> = lines.filter_map(|l| l.split_once('|')).collect();
    let (mut passed, mut skipped, mut wrong) = (0, Vec::new(), Vec::new());
    for (name, outcome) in &outcomes {
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Skipped => {
                skipped.push(name.as_str());
                if !reasons.iter().any(|(part, _)| name.contains(part)) {
                    wrong.push(format!("skipped without a reason: {name}"));
                }
            }
            Outcome::Failed(message) => wrong.push(format!("failed: {name}: {message}")),
        }
    }
    println!("csi-sanity: {} specs, {passed} passed, {} skipped:", outcomes.len(), skipped.len());
    for (part, reason) in &reasons {
        let count = skipped.iter().filter(|name| name.contains(part)).count();
        if count == 0 {
            wrong.push(format!("{part:?} is in the list of skipped specs, but none was skipped"));
        }
        println!("  {count:3}  {part}: {reason}");
    }
    if passed == 0 {
        wrong.push(format!("no spec was run; see {}", at("sanity.log").display()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = r#"<testsuite><testcase name="[It] one" status="passed" time="1"></testcase>
            <testcase name="[BeforeSuite]" status="passed"></testcase>
            <testcase name="[It] two" status="skipped"><skipped message="no"></skipped></testcase>
            <testcase name="[It] three" status="failed"><failure message="bad">x</failure></testcase></testsuite>"#;
        let found = outcomes(report);
        assert_eq!(found[0], ("[It] one".to_owned(), Outcome::Passed));
        assert_eq!(found[1].1, Outcome::Skipped);
        assert_eq!(found[2].1, Outcome::Failed("bad".to_owned()));
        assert_eq!(found.len(), 3);
    }
}
