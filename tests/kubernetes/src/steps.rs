//! What is tried, in this order; later steps build on those that are always run.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::cluster::{Cluster, condition};

/// A test.
pub type Step = fn(&mut Cluster) -> Result<()>;

/// All of them: the name, whether later ones build on it, and what is done.
pub const STEPS: &[(&str, bool, Step)] = &[
    ("definitions_are_structural", true, definitions),
    ("manifests_pass_a_dry_run", true, manifests),
    ("wrong_objects_are_refused", false, wrong_objects),
    ("two_control_planes_have_one_leader", true, one_leader),
    ("nodes_appear", true, nodes),
    ("pools_are_made_and_foreign_disks_left_alone", true, pools),
    ("a_volume_is_made_by_hand", true, volume),
    ("events_are_with_their_objects", false, events),
    ("edits_of_both_sides_meet", false, edits),
    ("records_belong_to_the_control_plane", false, records),
    ("a_pool_in_use_outlives_its_object", false, pool_in_use),
    ("the_api_server_restarts", false, api_restart),
    ("a_killed_leader_is_replaced", false, killed_leader),
    ("a_leader_that_slept_changes_nothing", false, sleeping_leader),
    ("nothing_is_left", false, nothing_left),
];

fn definitions(c: &mut Cluster) -> Result<()> {
    c.api.kubectl(&["create", "namespace", "mayastor"])?;
    c.api.kubectl(&["apply", "-f", "deploy/kubernetes/crds.yaml"])?;
    for name in ["mayastornodes", "mayastorpools", "mayastorvolumes"] {
        let name = format!("{name}.openebs.io");
        c.api.kubectl(&["wait", "--for=condition=Established", "crd", &name, "--timeout=30s"])?;
        let crd = c.get("crd", &name)?;
        if let Some(bad) = condition(&crd, "NonStructuralSchema") {
            return Err(format!("{name}: {bad}").into());
        }
    }
    Ok(())
}

/// The manifests as they are; then only the permissions are really made: nothing would run the pods.
fn manifests(c: &mut Cluster) -> Result<()> {
    let said = c.api.kubectl(&["apply", "--dry-run=server", "-f", "deploy/kubernetes/mayastor.yaml"])?;
    for kind in ["deployment.apps/mayastor-control", "daemonset.apps/mayastor-engine", "role.rbac"] {
        if !said.contains(kind) {
            return Err(format!("no {kind} in\n{said}").into());
        }
    }
    c.api.kubectl(&["apply", "-f", "deploy/kubernetes/mayastor.yaml"]).map(drop)
}

fn wrong_objects(c: &mut Cluster) -> Result<()> {
    let volume = |spec: Value| object("MayastorVolume", "wrong", spec);
    let pool = |spec: Value| object("MayastorPool", "wrong", spec);
    let table = [
        (volume(json!({ "requiredBytes": 1 })), "replicaCount"),
        (volume(json!({ "replicaCount": 0, "requiredBytes": 1 })), "replicaCount"),
        (volume(json!({ "replicaCount": 17, "requiredBytes": 1 })), "replicaCount"),
        (volume(json!({ "replicaCount": 1, "requiredBytes": 0 })), "requiredBytes"),
        (volume(json!({ "replicaCount": 1, "requiredBytes": 2, "limitBytes": 1 })), "limitBytes is less"),
        (volume(json!({ "replicaCount": "2", "requiredBytes": 1 })), "replicaCount"),
        (pool(json!({ "node": "n" })), "disks"),
        (pool(json!({ "node": "n", "disks": [] })), "disks"),
        (pool(json!({ "node": "n", "disks": ["sda"] })), "disks"),
        (pool(json!({ "node": "n", "disks": ["/dev/a", "/dev/a"] })), "given twice"),
        (pool(json!({ "node": "", "disks": ["/dev/a"] })), "node"),
        (object("MayastorNode", "wrong", json!({ "grpcEndpoint": "nowhere" })), "grpcEndpoint"),
    ];
    for (wrong, word) in table {
        match c.apply(&wrong) {
            Ok(_) => return Err(format!("was accepted: {wrong}").into()),
            Err(e) if e.to_string().contains(word) => {}
            Err(e) => return Err(format!("{wrong}: {e} does not say {word:?}").into()),
        }
    }
    // What cannot be changed.
    c.apply(&object(
        "MayastorPool",
        "fixed",
        json!({ "node": "nowhere", "disks": ["/dev/a", "nvmf://10.0.0.9/nqn.x"] }),
    ))?;
    for (patch, word) in [
        (json!({ "spec": { "node": "elsewhere" } }), "stays on its node"),
        (json!({ "spec": { "disks": ["/dev/a"] } }), "not taken out"),
    ] {
        refused(c, "msp", "fixed", &patch, word)?;
    }
    c.api.kubectl(&["delete", "msp", "fixed"])?;
    c.apply(&object("MayastorVolume", "fixed", json!({ "replicaCount": 1, "requiredBytes": 8192 })))?;
    for (patch, word) in [
        (json!({ "spec": { "requiredBytes": 4096 } }), "never shrinks"),
        (json!({ "spec": { "thin": true } }), "thin or thick"),
    ] {
        refused(c, "msv", "fixed", &patch, word)?;
    }
    c.api.kubectl(&["delete", "msv", "fixed"]).map(drop)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "openebs.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn refused(c: &Cluster, kind: &str, name: &str, patch: &Value, word: &str) -> Result<()> {
    match c.api.kubectl(&["patch", kind, name, "--type=merge", "-p", &patch.to_string()]) {
        Ok(_) => Err(format!("{kind} {name}: {patch} was accepted").into()),
        Err(e) if e.to_string().contains(word) => Ok(()),
        Err(e) => Err(format!("{kind} {name}: {patch}: {e} does not say {word:?}").into()),
    }
}

fn holder(c: &Cluster) -> Result<String> {
    let lease = c.get("lease", "mayastor-control")?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

fn one_leader(c: &mut Cluster) -> Result<()> {
    c.start_control(0)?;
    c.wait("a first leader", |c| Some(c.leader() == Some(0)))?;
    c.start_control(1)?;
    // The second has the time to do harm.
    std::thread::sleep(Duration::from_secs(3));
    if c.leader() != Some(0) {
        return Err("the second took over from a living leader".into());
    }
    c.client(&["status"]).map(drop)
}

fn nodes(c: &mut Cluster) -> Result<()> {
    for n in 1..=3 {
        c.start_engine(n)?;
    }
    for n in 1..=3 {
        let node = c.wait_field("msn", &format!("node-{n}"), "/status", &json!("online"))?;
        if node["spec"]["grpcEndpoint"] != json!(format!("127.0.0.1:{}", 20_000 + n)) {
            return Err(format!("{node:#}").into());
        }
    }
    Ok(())
}

const DISK: u64 = 512 << 20;

fn pool(c: &mut Cluster, n: usize) -> Result<()> {
    let disk = c.disk(&format!("disk-{n}.img"), DISK)?;
    // Both forms of a disk.
    let disk = if n == 1 { format!("aio://{disk}") } else { disk };
    c.apply(&object("MayastorPool", &format!("pool-{n}"), json!({ "node": format!("node-{n}"), "disks": [disk] })))?;
    Ok(())
}

fn pools(c: &mut Cluster) -> Result<()> {
    for n in 1..=3 {
        pool(c, n)?;
    }
    for n in 1..=3 {
        let name = format!("pool-{n}");
        let pool = c.wait_field("msp", &name, "/status/state", &json!("online"))?;
        let capacity = pool["status"]["capacity"].as_u64().unwrap_or(0);
        let ready = condition(&pool, "Ready").is_some_and(|r| r["status"] == "True");
        if capacity < DISK / 2 || !ready || pool["status"]["observedGeneration"] != pool["metadata"]["generation"] {
            return Err(format!("{pool:#}").into());
        }
    }
    // A disk with a file system.
    let disk = c.disk("foreign.img", 64 << 20)?;
    crate::cluster::run("mkfs.ext4", &["-q", "-F", &disk])?;
    let head = |path: &str| -> Result<Vec<u8>> {
        let mut bytes = vec![0; 1 << 20];
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let before = head(&disk)?;
    c.apply(&object("MayastorPool", "foreign", json!({ "node": "node-1", "disks": [disk] })))?;
    c.wait("the pool on a foreign disk is refused", |c| {
        let pool = c.get("msp", "foreign").ok()?;
        Some(condition(&pool, "Ready")?["reason"] == "Refused")
    })?;
    let pool = c.get("msp", "foreign")?;
    if pool["status"]["state"] != "pending" || pool["status"]["reason"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{pool:#}").into());
    }
    // A node that nobody knows.
    c.apply(&object("MayastorPool", "nowhere", json!({ "node": "node-9", "disks": ["/dev/null"] })))?;
    let reason = json!("mayastor does not run on node \"node-9\"");
    c.wait_field("msp", "nowhere", "/status/reason", &reason)?;
    c.api.kubectl(&["delete", "msp", "foreign", "nowhere", "--timeout=30s"])?;
    if head(&disk)? != before {
        return Err("the foreign disk was written to".into());
    }
    Ok(())
}

fn volume(c: &mut Cluster) -> Result<()> {
    let spec = json!({ "replicaCount": 2, "requiredBytes": 67_108_000 });
    c.apply(&object("MayastorVolume", "by-hand", spec))?;
    let v = c.wait_field("msv", "by-hand", "/status/state", &json!("healthy"))?;
    let status = &v["status"];
    let accepted = condition(&v, "Accepted").is_some_and(|a| a["status"] == "True");
    let replicas = status["replicas"].as_array().map_or(0, Vec::len);
    if status["size"] != json!(67_108_864) || replicas != 2 || !accepted {
        return Err(format!("{v:#}").into());
    }
    let listed = c.client(&["volume", "list", "-q"])?;
    if !listed.contains("by-hand") {
        return Err(format!("the client does not show it: {listed}").into());
    }
    // And one by the client: an object appears.
    c.client(&["volume", "create", "by-client", "--size", "64MiB", "-r", "1"])?;
    let v = c.wait_field("msv", "by-client", "/status/state", &json!("healthy"))?;
    if v["spec"]["requiredBytes"] != json!(64 << 20) || v["spec"]["replicaCount"] != 1 {
        return Err(format!("{v:#}").into());
    }
    // More than there is: the object says so, and becomes a volume when it asks for less... which is a new object.
    c.apply(&object("MayastorVolume", "huge", json!({ "replicaCount": 2, "requiredBytes": 1_u64 << 40 })))?;
    c.wait("a volume without room is refused", |c| {
        let v = c.get("msv", "huge").ok()?;
        Some(
            condition(&v, "Accepted")?["reason"] == "Refused"
                && v["status"]["reason"].as_str()?.contains("needs 2 pools"),
        )
    })?;
    c.api.kubectl(&["delete", "msv", "huge", "--timeout=30s"]).map(drop)
}

fn events(c: &mut Cluster) -> Result<()> {
    for (kind, name, reason) in
        [("msv", "by-hand", "VolumeCreated"), ("msp", "pool-1", "PoolCreated"), ("msn", "node-1", "NodeOnline")]
    {
        c.wait(&format!("{reason} with {kind} {name}"), |c| {
            Some(c.api.kubectl(&["describe", kind, name]).ok()?.contains(reason))
        })?;
    }
    let told = c.client(&["events"])?;
    if !told.contains("by-hand") { Err(format!("mayastor events: {told}").into()) } else { Ok(()) }
}

fn edits(c: &mut Cluster) -> Result<()> {
    // A person scales, while something else changes the same object all the time.
    let noise =
        |c: &Cluster, n: usize| c.api.kubectl(&["annotate", "msv", "by-hand", &format!("noise=n{n}"), "--overwrite"]);
    c.api.kubectl(&["patch", "msv", "by-hand", "--type=merge", "-p", "{\"spec\":{\"replicaCount\":3}}"])?;
    for n in 0..5 {
        noise(c, n)?;
    }
    c.wait("the third copy is in sync", |c| {
        let v = c.get("msv", "by-hand").ok()?;
        let online = v["status"]["replicas"].as_array()?.iter().filter(|r| r["state"] == "online").count();
        Some(online == 3 && v["status"]["state"] == "healthy" && v["record"]["data"]["replicas"] == 3)
    })?;
    // The client scales: the spec follows.
    c.client(&["volume", "scale", "by-hand", "2"])?;
    for n in 5..10 {
        noise(c, n)?;
    }
    c.wait_field("msv", "by-hand", "/spec/replicaCount", &json!(2))?;
    c.wait("the third copy is gone", |c| {
        let v = c.get("msv", "by-hand").ok()?;
        Some(v["status"]["replicas"].as_array()?.len() == 2 && v["status"]["state"] == "healthy")
    })?;
    // It grows.
    c.api.kubectl(&["patch", "msv", "by-hand", "--type=merge", "-p", "{\"spec\":{\"requiredBytes\":80000000}}"])?;
    c.wait_field("msv", "by-hand", "/status/size", &json!(80_003_072))?;
    c.wait_field("msv", "by-hand", "/status/state", &json!("healthy"))?;
    // And preferences, which only the record shows.
    c.api.kubectl(&[
        "patch",
        "msv",
        "by-hand",
        "--type=merge",
        "-p",
        "{\"spec\":{\"preferredNodes\":[\"node-1\"]}}",
    ])?;
    c.wait_field("msv", "by-hand", "/record/data/preferred_nodes", &json!(["node-1"])).map(drop)
}

/// Even an administrator does not change a record by accident; the control plane with its own permissions does.
fn records(c: &mut Cluster) -> Result<()> {
    let patch = json!({ "record": { "data": { "target": "node-9" } } });
    refused(c, "msv", "by-hand", &patch, "belongs to the control plane")?;
    let made = json!({
        "apiVersion": "openebs.io/v1alpha1", "kind": "MayastorVolume", "metadata": { "name": "forged" },
        "spec": { "replicaCount": 1, "requiredBytes": 4096 }, "record": { "revision": 1, "key": "volume/x", "data": {} },
    });
    match c.apply(&made) {
        Ok(_) => Err("an object with a forged record was accepted".into()),
        Err(e) if e.to_string().contains("belongs to the control plane") => Ok(()),
        Err(e) => Err(e),
    }
}

fn pool_in_use(c: &mut Cluster) -> Result<()> {
    c.apply(&object(
        "MayastorVolume",
        "single",
        json!({ "replicaCount": 1, "requiredBytes": 1 << 24, "requiredNodes": ["node-3"] }),
    ))?;
    c.wait_field("msv", "single", "/status/state", &json!("healthy"))?;
    c.api.kubectl(&["delete", "msp", "pool-3", "--wait=false"])?;
    c.wait("the pool says what it waits for", |c| {
        let pool = c.get("msp", "pool-3").ok()?;
        let waits = condition(&pool, "Deletable")?;
        Some(waits["reason"] == "InUse" && waits["message"].as_str()?.contains("single"))
    })?;
    c.wait("an event says so", |c| Some(c.api.kubectl(&["describe", "msp", "pool-3"]).ok()?.contains("InUse")))?;
    std::thread::sleep(Duration::from_secs(2));
    c.wait_field("msv", "single", "/status/state", &json!("healthy"))?;
    // Whatever else has a copy there.
    c.api.kubectl(&["delete", "msv", "single", "--timeout=60s"])?;
    c.api.kubectl(&[
        "patch",
        "msv",
        "by-hand",
        "--type=merge",
        "-p",
        "{\"spec\":{\"requiredNodes\":[\"node-1\",\"node-2\"]}}",
    ])?;
    let by_client = c.get("msv", "by-client")?;
    if by_client["status"]["replicas"][0]["node"] == "node-3" {
        c.api.kubectl(&["delete", "msv", "by-client", "--timeout=60s"])?;
    }
    let on_it = |c: &Cluster| {
        let v = c.get("msv", "by-hand").ok()?;
        Some(v["status"]["replicas"].as_array()?.iter().any(|r| r["node"] == "node-3"))
    };
    if on_it(c) == Some(true) {
        // One copy more somewhere else, or one less here: scaling makes the planner choose.
        c.api.kubectl(&["delete", "msv", "by-hand", "--timeout=60s"])?;
        c.apply(&object(
            "MayastorVolume",
            "by-hand",
            json!({ "replicaCount": 2, "requiredBytes": 67_108_000, "requiredNodes": ["node-1", "node-2"] }),
        ))?;
        c.wait_field("msv", "by-hand", "/status/state", &json!("healthy"))?;
    }
    c.wait_gone("msp", "pool-3")?;
    // The disk is blank again, so it can be used again.
    pool(c, 3)?;
    c.wait_field("msp", "pool-3", "/status/state", &json!("online")).map(drop)
}

fn api_restart(c: &mut Cluster) -> Result<()> {
    // Shorter than the lease: the leader goes on. What happens meanwhile is seen afterwards.
    c.api.down();
    std::thread::sleep(Duration::from_secs(2));
    c.api.up()?;
    c.apply(&object("MayastorVolume", "after", json!({ "replicaCount": 2, "requiredBytes": 1 << 24 })))?;
    c.wait_field("msv", "after", "/status/state", &json!("healthy"))?;
    // Longer: nobody leads until it is back, and a copy that was lost meanwhile is made good.
    c.api.down();
    c.kill_engine(2);
    std::thread::sleep(Duration::from_secs(15));
    c.api.up()?;
    c.wait_field("msn", "node-2", "/status", &json!("offline"))?;
    c.start_engine(2)?;
    c.wait_field("msn", "node-2", "/status", &json!("online"))?;
    for name in ["after", "by-hand"] {
        c.wait_field("msv", name, "/status/state", &json!("healthy"))?;
    }
    c.api.kubectl(&["delete", "msv", "after", "--timeout=60s"]).map(drop)
}

fn killed_leader(c: &mut Cluster) -> Result<()> {
    let mut leader = None;
    c.wait("a leader", |c| {
        leader = c.leader();
        Some(leader.is_some())
    })?;
    let old = leader.ok_or("no leader")?;
    let before = holder(c)?;
    c.signal(old, "-9")?;
    c.wait("the other leads", |c| Some(holder(c).ok()? != before && c.leader() == Some(1 - old)))?;
    // It works: a volume, and nodes that report to it through the Service.
    c.apply(&object("MayastorVolume", "after", json!({ "replicaCount": 2, "requiredBytes": 1 << 24 })))?;
    c.wait_field("msv", "after", "/status/state", &json!("healthy"))?;
    c.api.kubectl(&["delete", "msv", "after", "--timeout=60s"])?;
    c.start_control(old)
}

fn sleeping_leader(c: &mut Cluster) -> Result<()> {
    let mut leader = None;
    c.wait("a leader", |c| {
        leader = c.leader();
        Some(leader.is_some())
    })?;
    let old = leader.ok_or("no leader")?;
    let before = holder(c)?;
    c.signal(old, "-STOP")?;
    c.wait("the other leads", |c| Some(holder(c).ok()? != before && c.leader() == Some(1 - old)))?;
    c.apply(&object("MayastorVolume", "slept", json!({ "replicaCount": 2, "requiredBytes": 1 << 24 })))?;
    c.wait_field("msv", "slept", "/status/state", &json!("healthy"))?;
    c.client(&["volume", "scale", "slept", "1"])?;
    c.signal(old, "-CONT")?;
    std::thread::sleep(Duration::from_secs(5));
    if c.leader() != Some(1 - old) {
        return Err("the one that slept leads again".into());
    }
    c.wait_field("msv", "slept", "/spec/replicaCount", &json!(1))?;
    c.wait_field("msv", "slept", "/status/state", &json!("healthy"))?;
    c.api.kubectl(&["delete", "msv", "slept", "--timeout=60s"]).map(drop)
}

fn nothing_left(c: &mut Cluster) -> Result<()> {
    for kind in ["msv", "msp"] {
        c.api.kubectl(&["delete", kind, "--all", "--timeout=80s"])?;
    }
    c.kill_engine(3);
    c.wait_field("msn", "node-3", "/status", &json!("offline"))?;
    c.api.kubectl(&["delete", "msn", "node-3", "--timeout=60s"])?;
    let left = c.api.kubectl(&["get", "msv,msp", "-o", "name"])?;
    if !left.is_empty() {
        return Err(left.into());
    }
    Ok(())
}
