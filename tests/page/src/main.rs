//! The page in a real browser: a volume is made in it, a node dies, and the page tells and shows how it is repaired.
//!
//! `cargo xtask test --page` runs it. Pictures of each step lie in `target/page` afterwards.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test outside the product")]

mod browser;
mod cluster;
mod http;

use std::path::PathBuf;
use std::time::Duration;

use browser::{Browser, Screen};
use clap::Parser;
use cluster::Cluster;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
struct Arguments {
    /// The program to test
    #[arg(long, default_value = "target/release/mayastor")]
    mayastor: PathBuf,
    /// Where the pictures go
    #[arg(long, default_value = "target/page")]
    pictures: PathBuf,
}

const WIDE: Screen = Screen { width: 1440, height: 1000, mobile: false, dark: false };
const DARK: Screen = Screen { dark: true, ..WIDE };
const PHONE: Screen = Screen { width: 390, height: 844, mobile: true, dark: false };
const PHONE_DARK: Screen = Screen { dark: true, ..PHONE };
const SOON: Duration = Duration::from_secs(20);
const LATER: Duration = Duration::from_secs(120);

fn main() -> std::process::ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => {
            println!("the page: all steps passed");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the page: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start(&arguments.mayastor)?;
    let browser = Browser::start(&arguments.pictures)?;
    browser.screen(WIDE)?;
    browser.open(&format!("http://{}/", cluster.page()))?;
    begins_empty(&browser)?;
    makes_a_volume(&browser)?;
    shows_load(&browser, &cluster)?;
    tells_of_a_repair(&browser, &cluster)?;
    looks_right_everywhere(&browser)?;
    deletes(&browser)?;
    is_alone(&browser)?;
    says_when_it_knows_nothing(&browser, cluster)
}

fn begins_empty(b: &Browser) -> Result<()> {
    b.until("four nodes are online", "document.querySelectorAll('#node-list .badge.good').length === 4", SOON)?;
    b.until("the headline is calm", "document.querySelector('.head.good h1').textContent === 'Ready'", SOON)?;
    b.shoot("empty", true)
}

fn makes_a_volume(b: &Browser) -> Result<()> {
    // With the keyboard alone, as far as the dialog: Enter on the button, Escape out of it, and in again.
    b.run("document.querySelector('#volumes .primary').focus()", &[])?;
    b.press(&["\u{E007}"])?;
    b.until("the dialog is open", "document.querySelector('dialog[open]')", SOON)?;
    b.until("its first field has the focus", "document.activeElement.name === 'name'", SOON)?;
    b.press(&["\u{E00C}"])?;
    b.until("escape closes it", "!document.querySelector('dialog')", SOON)?;
    b.press(&["\u{E007}"])?;
    b.until("it is open again", "document.querySelector('dialog[open]')", SOON)?;
    b.fill("dialog [name=name]", "data")?;
    b.fill("dialog [name=size]", "900")?;
    b.run("document.querySelector('dialog [name=unit]').value = 'TiB'", &[])?;
    b.shoot("dialog", false)?;
    b.click("dialog [type=submit]")?;
    b.until(
        "a volume that does not fit is refused with a reason",
        "document.querySelector('dialog .trouble:not([hidden])')",
        SOON,
    )?;
    b.run("document.querySelector('dialog [name=unit]').value = 'MiB'", &[])?;
    b.fill("dialog [name=size]", "600")?;
    b.click("dialog [type=submit]")?;
    b.until("the volume is online", "document.querySelector('.volume[data-state=online]')", LATER)?;
    b.until("it has three copies in sync", "document.querySelectorAll('.copy[data-state=online]').length === 3", SOON)?;
    b.until("the dialog is gone", "!document.querySelector('dialog')", SOON)?;
    b.click(".volume .name")?;
    b.until("its address is shown", "document.querySelector('.facts code').textContent.startsWith('nvmf://')", SOON)
}

fn shows_load(b: &Browser, cluster: &Cluster) -> Result<()> {
    let image = cluster.file("image");
    let bytes: Vec<u8> = (0..400_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&image, bytes)?;
    let image = image.to_str().ok_or("a path that is no text")?;
    let mut import = cluster.client(&["volume", "import", image, "data"])?;
    if !import.wait()?.success() {
        return Err("the import failed".into());
    }
    b.until(
        "the chart has a line for what was written",
        "document.querySelector('[data-chart=throughput] path.stroke.line-1').getAttribute('d').length > 0",
        SOON,
    )?;
    b.until("the volume has charts of its own", "document.querySelectorAll('.more .chart').length === 3", SOON)
}

/// A node with a copy that does not serve the volume.
const BYSTANDER: &str = "return [...document.querySelectorAll('.copy')].find((c) => !c.querySelector('.serves')).querySelector('b').textContent";

fn tells_of_a_repair(b: &Browser, cluster: &Cluster) -> Result<()> {
    let node = b.run(BYSTANDER, &[])?;
    let node = node.as_str().ok_or("no copy")?.trim().to_owned();
    println!("  killing {node}");
    cluster.kill(&node)?;
    b.until(
        "the headline tells of it",
        "/fewer copies/.test(document.querySelector('.head.warn h1').textContent)",
        SOON,
    )?;
    b.until(
        "why: the node is named",
        &format!("[...document.querySelectorAll('.card .why')].some((w) => w.textContent.includes('{node}'))"),
        SOON,
    )?;
    b.until("what is being done", "document.querySelector('.card .doing li')", SOON)?;
    b.until("the node is marked", "document.querySelector('#node-list .badge.warn, #node-list .badge.bad')", SOON)?;
    b.shoot("lost", true)?;
    b.until("a rebuild runs", "document.querySelector('.copy[data-state=rebuilding]')", LATER)?;
    b.until("its progress is shown", "document.querySelector('[role=progressbar]')", SOON)?;
    b.shoot("repair", true)?;
    b.until("the volume is whole again", "document.querySelectorAll('.copy[data-state=online]').length === 3 && document.querySelector('.volume[data-state=online]')", LATER)?;
    b.until("the events tell the story", "/in sync/.test(document.querySelector('#event-list').textContent)", SOON)
}

/// Text that is cut off by its box, or a page that can be moved sideways.
const OVERFLOW: &str = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";

/// Controls without a name, and pictures without a text: nothing that a screen reader could say.
const NAMELESS: &str = "return [...document.querySelectorAll('button, a, input, select, textarea, [role=img], [role=progressbar], [role=meter]')].filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map((e) => e.outerHTML)";

fn looks_right_everywhere(b: &Browser) -> Result<()> {
    for (name, screen) in [("wide", WIDE), ("dark", DARK), ("phone", PHONE), ("phone-dark", PHONE_DARK)] {
        b.screen(screen)?;
        std::thread::sleep(Duration::from_millis(700));
        b.shoot(name, true)?;
        let over = b.run(OVERFLOW, &[])?;
        if over.as_i64() != Some(0) {
            return Err(format!("{name}: the page is {over} pixels too wide").into());
        }
    }
    b.screen(WIDE)?;
    let nameless = b.run(NAMELESS, &[])?;
    if nameless.as_array().is_none_or(|all| !all.is_empty()) {
        return Err(format!("controls without a name: {nameless}").into());
    }
    Ok(())
}

fn deletes(b: &Browser) -> Result<()> {
    b.click(".volume .danger")?;
    b.fill("dialog [name=confirm]", "date")?;
    b.click("dialog [type=submit]")?;
    b.until(
        "a wrong name deletes nothing",
        "document.querySelector('dialog .trouble[role=alert]:not([hidden])')",
        SOON,
    )?;
    b.fill("dialog [name=confirm]", "data")?;
    b.click("dialog [type=submit]")?;
    b.until("the volume goes", "!document.querySelector('.volume:not([data-state=deleting])')", LATER)
}

/// Nothing comes from elsewhere, and the browser has nothing to complain about.
fn is_alone(b: &Browser) -> Result<()> {
    let foreign = "return performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !n.startsWith(location.origin + '/'))";
    let foreign = b.run(foreign, &[])?;
    if foreign != Value::Array(Vec::new()) {
        return Err(format!("the page loads from elsewhere: {foreign}").into());
    }
    // The volume that did not fit is a 409, which the browser notes.
    let complaints: Vec<String> = b.complaints()?.into_iter().filter(|c| !c.contains("409")).collect();
    if complaints.is_empty() { Ok(()) } else { Err(format!("the browser complains: {complaints:?}").into()) }
}

fn says_when_it_knows_nothing(b: &Browser, cluster: Cluster) -> Result<()> {
    drop(cluster);
    b.until("it says that it knows nothing new", "document.querySelector('.head.stale')", SOON)?;
    b.shoot("stale", false)
}
