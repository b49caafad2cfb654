//! The network of the run: one bridge, and a network namespace with one link to it for each node and for the control
//! plane. All of it lies in namespaces that only this process and its children see, and ends with them.

use std::process::{Command, Stdio};

use crate::Result;

/// The address of the bridge: where the client of the volumes is.
const HUB: &str = "10.77.0.254/24";
/// The most nodes.
pub const NODES: usize = 9;
/// The place of the control plane among the members.
pub const CONTROL: usize = NODES + 1;

/// What a link of the network suffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing passes.
    Cut,
    /// Nothing passes between two such members; the control plane and the client reach both.
    Isolated,
    /// So many of a hundred packets are lost, each way.
    Loss(u8),
    /// So many Mbit/s at most, with a queue of up to 0.4 s.
    Slow(u32),
}

/// Which troubles this kernel can make.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Random loss.
    pub loss: bool,
    /// Slow links.
    pub slow: bool,
}

/// Runs a program; an error with what it said when it fails.
pub fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run {program}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} {}: {}", args.join(" "), said.trim()).into());
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    run("ip", &line.split(' ').collect::<Vec<_>>())
}

/// Makes the bridge.
pub fn make() -> Result<()> {
    run("mount", &["-t", "tmpfs", "chaos", "/run"])?;
    std::fs::create_dir("/run/netns")?;
    ip("link set dev lo up")?;
    ip("link add name hub type bridge")?;
    ip(&format!("addr add {HUB} dev hub"))?;
    ip("link set dev hub up")
}

/// The name of a member's namespace.
pub fn namespace(member: usize) -> String {
    format!("m{member}")
}

/// The address of a member.
pub fn address(member: usize) -> String {
    format!("10.77.0.{}", member + 1)
}

/// Links a member to the bridge.
pub fn join(member: usize) -> Result<()> {
    let (space, at) = (namespace(member), address(member));
    ip(&format!("netns add {space}"))?;
    ip(&format!("link add name h{member} type veth peer name e0 netns {space}"))?;
    ip(&format!("link set dev h{member} master hub"))?;
    ip(&format!("link set dev h{member} up"))?;
    ip(&format!("-n {space} link set dev lo up"))?;
    ip(&format!("-n {space} addr add {at}/24 dev e0"))?;
    ip(&format!("-n {space} link set dev e0 up"))
}

/// Tries what the kernel can do, on a link that nobody uses yet.
pub fn means() -> Result<Means> {
    ip("link add name try type veth peer name try2")?;
    let means = Means { loss: lose("try", 10).is_ok(), slow: slow("try", 10).is_ok() };
    ip("link del dev try")?;
    if !means.loss {
        println!("*** this kernel cannot drop packets at random (cls_bpf): no loss in this run ***");
    }
    if !means.slow {
        println!("*** this kernel cannot slow links down (sch_tbf): no delays in this run ***");
    }
    Ok(means)
}

/// Random loss by a classic BPF program, which every kernel with cls_bpf has; netem is often not built.
fn lose(link: &str, percent: u8) -> Result<()> {
    run("tc", &["qdisc", "add", "dev", link, "clsact"])?;
    let pass_below = (1u64 << 32) * (100 - u64::from(percent)) / 100;
    // Load a random word; at or above the bound: 2, dropped; below: 0, passed.
    let program = format!("4,32 0 0 4294963256,53 0 1 {pass_below},6 0 0 2,6 0 0 0");
    for way in ["ingress", "egress"] {
        run("tc", &["filter", "add", "dev", link, way, "bpf", "da", "bytecode", &program])?;
    }
    Ok(())
}

fn slow(link: &str, mbit: u32) -> Result<()> {
    let rate = format!("{mbit}mbit");
    run("tc", &["qdisc", "add", "dev", link, "root", "tbf", "rate", &rate, "burst", "32kb", "latency", "400ms"])
}

/// Lets a member's link suffer.
pub fn trouble(member: usize, what: Trouble) -> Result<()> {
    let link = format!("h{member}");
    match what {
        Trouble::Cut => ip(&format!("link set dev {link} down")),
        Trouble::Isolated => ip(&format!("link set dev {link} type bridge_slave isolated on")),
        Trouble::Loss(percent) => lose(&link, percent),
        Trouble::Slow(mbit) => slow(&link, mbit),
    }
}

/// Ends what [`trouble`] began.
pub fn relieve(member: usize, what: Trouble) -> Result<()> {
    let link = format!("h{member}");
    match what {
        Trouble::Cut => ip(&format!("link set dev {link} up")),
        Trouble::Isolated => ip(&format!("link set dev {link} type bridge_slave isolated off")),
        Trouble::Loss(_) => run("tc", &["qdisc", "del", "dev", &link, "clsact"]),
        Trouble::Slow(_) => run("tc", &["qdisc", "del", "dev", &link, "root"]),
    }
}
