//! The steps of the suite. Each cleans up behind itself.

use std::time::Duration;

use guest::{HOST_ADDRESS, Result};
use serde_json::Value;

use crate::World;

const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(400);

type Step = fn(&mut World) -> Result<()>;

/// All steps, in order.
pub const ALL: &[(&str, Step)] = &[
    ("discover_and_identify", discover_and_identify),
    ("ext4_on_a_volume_with_verified_io", |w| file_system(w, "ext4")),
    ("xfs_on_a_volume_with_verified_io", |w| file_system(w, "xfs")),
    ("raw_device_with_trims_and_zeroes", trims_and_zeroes),
    ("digests_on", digests),
    ("the_csi_driver_through_the_kernel", csi_driver),
    ("ext4_over_iscsi", crate::iscsi::file_system),
    ("a_mounted_volume_grows_under_load", grows),
    ("a_volume_that_is_taken_back_goes_cleanly", taken_back),
    ("the_target_engine_restarts_under_load", engine_restart),
    ("a_replica_node_dies_under_load_and_is_replaced", node_loss),
];

/// Makes and publishes a volume; its NQN and port.
fn publish(w: &World, name: &str, mib: u64, replicas: u32, node: usize) -> Result<(String, u16)> {
    let (size, count) = (format!("{mib}MiB"), replicas.to_string());
    w.cluster.command(&["volume", "create", name, "--size", &size, "--replicas", &count, "--wait"])?;
    let volume = w.cluster.command(&["volume", "publish", name, "--node", &format!("node-{node}")])?;
    let uri = volume["device_uri"].as_str().ok_or("no device_uri")?;
    let (authority, nqn) = uri.trim_start_matches("nvmf://").split_once('/').ok_or("a URI with a path")?;
    let port = authority.rsplit_once(':').ok_or("a URI with a port")?.1.parse()?;
    Ok((nqn.to_owned(), port))
}

/// Connects in the guest with several queues and waits for the block device; its path.
fn connect(w: &mut World, nqn: &str, port: u16, more: &str) -> Result<String> {
    let script = format!(
        "nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {nqn} --nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=300 {more} || exit 1
         for i in $(seq 100); do
           for s in /sys/class/nvme-subsystem/*; do
             [ \"$(cat $s/subsysnqn 2>/dev/null)\" = {nqn} ] || continue
             for n in $s/nvme*n*; do d=/dev/$(basename $n); [ -b $d ] && {{ echo $d; exit 0; }}; done
           done
           sleep 0.1
         done
         echo 'no block device appeared' >&2; dmesg | tail -20 >&2; exit 1"
    );
    Ok(w.vm.run(&script, SHORT)?.lines().last().unwrap_or_default().trim().to_owned())
}

fn disconnect(w: &mut World, nqn: &str) -> Result<()> {
    w.vm.run(&format!("nvme disconnect -n {nqn}"), SHORT).map(|_| ())
}

/// Unpublishes and destroys a volume, and demands that nothing of it is left on any pool.
fn destroy(w: &World, name: &str) -> Result<()> {
    w.cluster.command(&["volume", "unpublish", name])?;
    w.cluster.command(&["volume", "destroy", name])?;
    w.cluster.until("all space is free again", Duration::from_secs(30), |c| {
        let pools = c.command(&["status"])?;
        Ok(pools["pools"].as_array().ok_or("no pools")?.iter().all(|p| number(&p["pool"]["used"]) == 0))
    })
}

/// The replicas of a volume, without those that were replaced and wait for their node to be destroyed.
fn in_use(volume: &Value) -> Result<Vec<&Value>> {
    let all = volume["replicas"].as_array().ok_or("no replicas")?;
    Ok(all.iter().filter(|r| r["state"] != "retired").collect())
}

fn number(v: &Value) -> u64 {
    v.as_u64().or_else(|| v.as_str().and_then(|s| s.parse().ok())).unwrap_or(0)
}

/// The machine's own root, which the guest sees read-only, below a writable overlay.
const FULL_ROOT: &str = "if [ ! -e /full/fs/usr ]; then
           mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host || exit 1
           mount -t tmpfs tmp /full && mkdir -p /full/up /full/work /full/fs
           modprobe overlay && mount -t overlay overlay -o lowerdir=/host,upperdir=/full/up,workdir=/full/work /full/fs || exit 1
           mount --bind /dev /full/fs/dev; mount -t proc proc /full/fs/proc; mount -t sysfs sys /full/fs/sys
           mkdir -p /full/fs/mnt /full/fs/tmp
         fi
";

/// fio, from the machine's own root.
fn fio(arguments: &str) -> String {
    format!(
        "{FULL_ROOT}
         chroot /full/fs /usr/bin/fio --output-format=terse --minimal --ioengine=libaio --verify=crc32c --verify_fatal=1 \\
           --verify_state_save=0 --serialize_overlap=1 --randrepeat=0 {arguments}"
    )
}

/// The CSI driver's own suite with both plugins in the guest, so that volumes are attached by the guest's kernel. Its
/// programs lie in the same target folder as the one under test.
fn csi_driver(w: &mut World) -> Result<()> {
    let mayastor = w.cluster.program().display().to_string();
    let target = w.cluster.program().ancestors().nth(2).ok_or("a program in a target folder")?.to_owned();
    let suite = target.join("csi/bin/csi-sanity");
    let mut options = format!("--suite {}", suite.display());
    let mut kinds = vec!["ext4", "xfs", "raw_block", "killed_before_stage-mount", "killed_before_unstage-detach"];
    if suite.exists() {
        kinds.push("csi_sanity");
    } else {
        println!("  csi-sanity is SKIPPED: {} is missing; run `cargo xtask test --csi` first", suite.display());
        options.clear();
    }
    let port = w.cluster.control_port();
    for kind in kinds {
        let script = format!(
            "{FULL_ROOT}
             modprobe nvme-tcp; modprobe ext4; modprobe xfs
             mkdir -p /full/fs/csi && chroot /full/fs /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
               {} --mayastor {mayastor} --folder /csi --control {HOST_ADDRESS}:{port} --transport kernel --only {kind} {options} 2>&1",
            target.join("debug/csitest").display()
        );
        let ran = w.vm.run_on(0, &script, LONG)?;
        if ran.code != 0 {
            return Err(format!("{kind}: exit code {}\n{}\n{}", ran.code, ran.out, ran.err).into());
        }
    }
    Ok(())
}

fn discover_and_identify(w: &mut World) -> Result<()> {
    let (nqn, port) = publish(w, "seen", 64, 1, 0)?;
    let log = w.vm.run(&format!("nvme discover -t tcp -a {HOST_ADDRESS} -s {port} -o json"), SHORT)?;
    let log: Value = serde_json::from_str(&log)?;
    let records = log["records"].as_array().ok_or("no records")?;
    let record =
        records.iter().find(|r| r["subnqn"] == nqn.as_str()).ok_or_else(|| format!("{nqn} is not in {log}"))?;
    if record["traddr"] != HOST_ADDRESS || record["trsvcid"] != port.to_string().as_str() {
        return Err(format!("discovery tells another address than the advertised one: {record}").into());
    }
    let device = connect(w, &nqn, port, "")?;
    let controller = w.vm.run(&format!("nvme id-ctrl {device} -o json"), SHORT)?;
    let controller: Value = serde_json::from_str(&controller)?;
    if controller["mn"].as_str().map(str::trim) != Some("Mayastor NVMe controller") {
        return Err(format!("the model is {}", controller["mn"]).into());
    }
    let uuid = nqn.rsplit("nexus-").next().unwrap_or_default().to_owned();
    let name = device.trim_start_matches("/dev/").to_owned();
    let wwid = w.vm.run(&format!("cat /sys/block/{name}/wwid; blockdev --getsize64 {device}"), SHORT)?;
    if wwid.lines().collect::<Vec<_>>() != [format!("uuid.{uuid}"), (64u64 << 20).to_string()] {
        return Err(format!("wwid and size are {wwid:?}").into());
    }
    for command in ["smart-log", "error-log", "fw-log", "get-feature -f 7", "id-ns", "list-ns"] {
        w.vm.run(&format!("nvme {command} {device}"), SHORT)?;
    }
    w.vm.run(&format!("nvme reset /dev/{}", name.split('n').take(2).collect::<Vec<_>>().join("n")), SHORT)?;
    w.vm.run(&format!("dd if={device} of=/dev/null bs=1M count=8 iflag=direct"), SHORT)?;
    disconnect(w, &nqn)?;
    destroy(w, "seen")
}

/// Makes a file system and mounts it on /mnt, where fio sees it too.
fn make_and_mount(w: &mut World, kind: &str, device: &str) -> Result<()> {
    let force = if kind == "ext4" { "-F" } else { "-f" };
    w.vm.run(
        &format!(
            "set -e
             modprobe {kind}
             mkfs.{kind} -q {force} {device}
             mount -t {kind} -o discard {device} /mnt"
        ),
        LONG,
    )?;
    w.vm.run(&fio("--version"), LONG)?;
    w.vm.run("mount --bind /mnt /full/fs/mnt && grep -q ' /full/fs/mnt ' /proc/mounts", SHORT).map(|_| ())
}

fn file_system(w: &mut World, kind: &str) -> Result<()> {
    let (nqn, port) = publish(w, "files", 384, 2, 0)?;
    let device = connect(w, &nqn, port, "")?;
    let check = if kind == "ext4" { "e2fsck -fn" } else { "xfs_repair -n" };
    make_and_mount(w, kind, &device)?;
    let job = "--name=files --directory=/mnt --rw=randrw --bssplit=4k/50:16k/30:128k/20 --size=24m --numjobs=2 \
               --iodepth=8 --direct=1 --fsync=64 --verify_backlog=64";
    w.vm.run(&fio(job), LONG)?;
    w.vm.run("cp -r /etc /bin /mnt/ && sync && rm -r /mnt/etc && fstrim /mnt || busybox fstrim /mnt; sync", LONG)?;
    let before = w.vm.run("cd /mnt && find . -type f | sort | xargs sha256sum", LONG)?;
    w.vm.run("umount /full/fs/mnt; umount /mnt", LONG)?;
    w.vm.run(&format!("{check} {device}"), LONG)?;
    disconnect(w, &nqn)?;
    let device = connect(w, &nqn, port, "")?;
    w.vm.run(&format!("mount {device} /mnt"), SHORT)?;
    let after = w.vm.run("cd /mnt && find . -type f | sort | xargs sha256sum", LONG)?;
    w.vm.run("umount /mnt", SHORT)?;
    if before != after || before.lines().count() < 3 {
        return Err("the files differ after a new connection".into());
    }
    disconnect(w, &nqn)?;
    replicas_are_equal(w, "files", 384)?;
    destroy(w, "files")
}

fn trims_and_zeroes(w: &mut World) -> Result<()> {
    let (nqn, port) = publish(w, "raw", 128, 3, 1)?;
    let device = connect(w, &nqn, port, "")?;
    let job = format!(
        "--version >/dev/null && test -b {device} && chroot /full/fs /usr/bin/fio --minimal --ioengine=libaio --name=raw --filename={device} --rw=randtrimwrite --bs=64k --size=64m --io_size=16m --iodepth=4 --direct=1 --verify=0 && \
         chroot /full/fs /usr/bin/fio --minimal --name=raw2 --filename={device} --ioengine=libaio --rw=randwrite --bsrange=4k-128k --size=64m \
         --io_size=24m --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1"
    );
    w.vm.run(&fio(&job), LONG)?;
    let name = device.trim_start_matches("/dev/").to_owned();
    // Trim, then zeroes, then both must read as zeroes.
    w.vm.run(
        &format!(
            "dd if=/dev/urandom of={device} bs=1M count=16 oflag=direct 2>/dev/null || exit 1
             /usr/sbin/blkdiscard -o 0 -l 4194304 {device} && /usr/sbin/blkdiscard -z -o 8388608 -l 3145728 {device} || exit 1
             for part in '0 4' '8 3'; do
               set -- $part
               dd if={device} bs=1M skip=$1 count=$2 iflag=direct 2>/dev/null | tr -d '\\0' | head -c1 | grep -q . && exit 2
             done
             dd if={device} bs=1M skip=4 count=1 iflag=direct 2>/dev/null | tr -d '\\0' | head -c1 | grep -q . || exit 3
             [ $(cat /sys/block/{name}/queue/discard_max_bytes) -gt 0 ] && [ $(cat /sys/block/{name}/queue/fua) = 1 ]"
        ),
        LONG,
    )?;
    disconnect(w, &nqn)?;
    replicas_are_equal(w, "raw", 128)?;
    destroy(w, "raw")
}

fn digests(w: &mut World) -> Result<()> {
    let (nqn, port) = publish(w, "digest", 64, 1, 0)?;
    let device = connect(w, &nqn, port, "--hdr-digest --data-digest")?;
    w.vm.run(
        &format!(
            "dd if=/dev/urandom of=/tmp/noise bs=1M count=4 2>/dev/null && dd if=/tmp/noise of={device} bs=256k oflag=direct 2>/dev/null
             echo 3 > /proc/sys/vm/drop_caches
             dd if={device} of=/tmp/back bs=256k count=16 iflag=direct 2>/dev/null && cmp /tmp/noise /tmp/back
             r=$?; dmesg | grep -i digest && exit 4; rm /tmp/noise /tmp/back; exit $r"
        ),
        SHORT,
    )?;
    disconnect(w, &nqn)?;
    destroy(w, "digest")
}

/// The size of the guest's device in bytes, as its kernel sees it without being told.
fn until_size(w: &mut World, device: &str, mib: u64) -> Result<()> {
    let wanted = mib << 20;
    w.vm.run(
        &format!(
            "for i in $(seq 100); do [ $(blockdev --getsize64 {device}) = {wanted} ] && exit 0; sleep 0.1; done
             echo {device} has $(blockdev --getsize64 {device}), not {wanted} >&2; dmesg | tail -20 >&2; exit 1"
        ),
        SHORT,
    )
    .map(|_| ())
}

fn grows(w: &mut World) -> Result<()> {
    let (nqn, port) = publish(w, "larger", 256, 3, 1)?;
    let device = connect(w, &nqn, port, "")?;
    make_and_mount(w, "ext4", &device)?;
    let job = "--name=larger --directory=/mnt --rw=randrw --bssplit=4k/70:64k/30 --size=48m --iodepth=8 --direct=1 --verify_backlog=32";
    w.vm.begin(1, &fio(job), LONG)?;
    std::thread::sleep(Duration::from_secs(2));
    for mib in [384, 640] {
        w.cluster.command(&["volume", "resize", "larger", "--size", &format!("{mib}MiB")])?;
        until_size(w, &device, mib)?;
        w.vm.run(&format!("{FULL_ROOT} chroot /full/fs /usr/sbin/resize2fs {device}"), LONG)?;
    }
    let smaller = w.cluster.command(&["volume", "resize", "larger", "--size", "512MiB"]);
    if smaller.as_ref().err().is_none_or(|e| !e.to_string().contains("shrink")) {
        return Err(format!("it was to refuse to shrink: {smaller:?}").into());
    }
    // More than there was room for before.
    w.vm.run(
        "dd if=/dev/urandom of=/mnt/much bs=1M count=400 2>/dev/null && sync && sha256sum /mnt/much > /mnt/sum",
        LONG,
    )?;
    w.vm.end(1)?.must(job)?;
    w.vm.run("umount /full/fs/mnt; umount /mnt", LONG)?;
    w.vm.run(&format!("e2fsck -fn {device}"), LONG)?;
    no_io_errors(w)?;
    disconnect(w, &nqn)?;
    let device = connect(w, &nqn, port, "")?;
    until_size(w, &device, 640)?;
    w.vm.run(&format!("mount {device} /mnt && sha256sum -c /mnt/sum; r=$?; umount /mnt; exit $r"), LONG)?;
    disconnect(w, &nqn)?;
    replicas_are_equal(w, "larger", 640)?;
    destroy(w, "larger")
}

/// What a host sees when its volume is unpublished, and destroyed, under it: I/O fails or waits and then fails, nothing
/// hangs, the host can disconnect, and the same host uses another volume afterwards.
fn taken_back(w: &mut World) -> Result<()> {
    let (nqn, port) = publish(w, "taken", 64, 1, 0)?;
    let device = connect(w, &nqn, port, "--ctrl-loss-tmo=6")?;
    let reads = format!("dd if={device} of=/dev/null bs=4k count=16 iflag=direct 2>/dev/null");
    w.vm.run(&reads, SHORT)?;
    w.vm.begin(1, &format!("while dd if={device} of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done"), LONG)?;
    std::thread::sleep(Duration::from_secs(1));
    w.cluster.command(&["volume", "unpublish", "taken"])?;
    w.cluster.command(&["volume", "destroy", "taken"])?;
    // The reader ends by an error as soon as the kernel gives the controller up.
    w.vm.end(1)?;
    w.vm.run(
        &format!(
            "for i in $(seq 300); do
               gone=1; for s in /sys/class/nvme/*/subsysnqn; do [ \"$(cat $s 2>/dev/null)\" = {nqn} ] && gone=0; done
               [ $gone = 1 ] && exit 0; sleep 0.1
             done
             nvme disconnect -n {nqn}"
        ),
        SHORT,
    )?;
    w.vm.run(&format!("! [ -b {device} ] || ! {reads}"), SHORT)?;
    w.vm.run(
        "ps | grep -v grep | grep ' D ' && exit 1; dmesg | grep -iE 'hung task|blocked for more' && exit 2; exit 0",
        SHORT,
    )?;
    let (nqn, port) = publish(w, "next", 64, 1, 0)?;
    let device = connect(w, &nqn, port, "")?;
    w.vm.run(&format!("dd if=/dev/zero of={device} bs=1M count=8 oflag=direct 2>/dev/null"), SHORT)?;
    disconnect(w, &nqn)?;
    destroy(w, "next")
}

fn engine_restart(w: &mut World) -> Result<()> {
    let (nqn, port) = publish(w, "ride", 256, 2, 2)?;
    let device = connect(w, &nqn, port, "")?;
    make_and_mount(w, "ext4", &device)?;
    let job = "--name=ride --directory=/mnt --rw=randrw --bs=4k --size=24m --iodepth=8 --direct=1 --verify_backlog=32";
    w.vm.begin(1, &fio(job), LONG)?;
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(4));
        w.cluster.kill_engine(2)?;
        std::thread::sleep(Duration::from_secs(1));
        w.cluster.start_engine(2)?;
    }
    w.vm.end(1)?.must(job)?;
    w.vm.run("umount /full/fs/mnt; umount /mnt", LONG)?;
    w.vm.run(&format!("e2fsck -fn {device}"), LONG)?;
    no_io_errors(w)?;
    disconnect(w, &nqn)?;
    replicas_are_equal(w, "ride", 256)?;
    destroy(w, "ride")
}

fn node_loss(w: &mut World) -> Result<()> {
    let (nqn, port) = publish(w, "heals", 320, 3, 0)?;
    let volume = w.cluster.command(&["volume", "show", "heals"])?;
    let replicas = volume["replicas"].as_array().ok_or("no replicas")?;
    let victim = replicas.iter().filter_map(|r| r["node"].as_str()).find(|n| *n != "node-0").ok_or("no other node")?;
    let victim: usize = victim.trim_start_matches("node-").parse()?;
    let device = connect(w, &nqn, port, "")?;
    make_and_mount(w, "xfs", &device)?;
    let job = "--name=heals --directory=/mnt --rw=randrw --bssplit=4k/70:64k/30 --size=32m --iodepth=8 --direct=1 --verify_backlog=32";
    w.vm.begin(1, &fio(job), LONG)?;
    std::thread::sleep(Duration::from_secs(4));
    w.cluster.kill_engine(victim)?;
    w.cluster.until("the lost replica is replaced and the volume is healthy", 3 * SHORT, |c| {
        let volume = c.command(&["volume", "show", "heals"])?;
        let replicas = in_use(&volume)?;
        let elsewhere = replicas.iter().all(|r| r["node"] != format!("node-{victim}").as_str());
        let online = replicas.iter().filter(|r| r["state"] == "online").count();
        Ok(volume["state"] == "online" && online == 3 && elsewhere)
    })?;
    w.vm.end(1)?.must(job)?;
    w.vm.run("umount /full/fs/mnt; umount /mnt", LONG)?;
    w.vm.run(&format!("xfs_repair -n {device}"), LONG)?;
    no_io_errors(w)?;
    disconnect(w, &nqn)?;
    replicas_are_equal(w, "heals", 320)?;
    // The node comes back with a replica that nobody needs any more.
    w.cluster.start_engine(victim)?;
    destroy(w, "heals")
}

fn no_io_errors(w: &mut World) -> Result<()> {
    let log =
        w.vm.run("dmesg | grep -iE 'i/o error|blk_update|EXT4-fs error|XFS .*(error|shutdown)' || true", SHORT)?;
    if log.trim().is_empty() { Ok(()) } else { Err(format!("the guest's kernel saw errors:\n{log}").into()) }
}

/// Compares the data partitions of all replicas of a volume, byte by byte, through the guest. The volume is unpublished,
/// so that nothing changes them meanwhile.
fn replicas_are_equal(w: &mut World, name: &str, mib: u64) -> Result<()> {
    w.cluster.command(&["volume", "unpublish", name])?;
    let volume = w.cluster.command(&["volume", "show", name])?;
    let mut sums = Vec::new();
    for replica in in_use(&volume)? {
        let (uuid, node) = (replica["uuid"].as_str().ok_or("no uuid")?, replica["node"].as_str().ok_or("no node")?);
        let k: usize = node.trim_start_matches("node-").parse()?;
        w.cluster.engine(k, &["replica", "share", uuid, "nvmf"])?;
        let nqn = format!("nqn.2019-05.io.openebs:{uuid}");
        let device = connect(w, &nqn, w.cluster.nvme_port(k), "")?;
        let sum =
            w.vm.run(&format!("dd if={device} bs=1M skip=5 count={mib} iflag=direct 2>/dev/null | sha256sum"), LONG)?;
        disconnect(w, &nqn)?;
        sums.push(sum);
    }
    if sums.is_empty() || sums.iter().any(|s| *s != sums[0]) {
        return Err(format!("the replicas of {name} differ: {sums:?}").into());
    }
    Ok(())
}
