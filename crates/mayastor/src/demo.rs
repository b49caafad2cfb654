//! `mayastor up --demo`: the main promise, shown. A volume with three copies serves a verifying workload while one of its
//! nodes is killed; the control plane makes a new copy elsewhere; then every byte is checked, on the volume and on each
//! copy. Our own initiator is the client, so neither root nor a kernel module is needed.

mod check;
mod content;
mod work;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::v1;

use crate::failure::{Done, Failure};
use crate::image;
use crate::output;
use crate::size::Units;
use crate::up::POOL;
use crate::up::cluster::{Cluster, Setup};
use content::Content;
use work::Work;

/// The volume of the story.
const VOLUME: &str = "demo";
/// The smallest volume that makes a story, and what its two halves are multiples of.
const SMALLEST: u64 = 64 << 20;
/// How long the repair may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the demo keeps its cluster, unless told otherwise.
pub fn directory() -> PathBuf {
    format!("mayastor-demo-{}", std::process::id()).into()
}

/// What is said on the way, and the table at the end.
struct Story {
    began: Instant,
    rows: Vec<[String; 3]>,
}

impl Story {
    fn say(&self, text: impl AsRef<str>) -> Done {
        output::print(&format!("[{:6.1} s] {}\n", self.began.elapsed().as_secs_f64(), text.as_ref()))
    }
    fn row(&mut self, what: &str, result: impl Into<String>, took: Option<Duration>) {
        let took = took.map(|t| format!("{:.1} s", t.as_secs_f64())).unwrap_or_default();
        self.rows.push([what.to_owned(), result.into(), took]);
    }
    fn table(&self) -> String {
        let output = output::Output { format: output::Format::Table, units: Units::Binary, quiet: false };
        output.table(&["STEP", "RESULT", ">TIME"], self.rows.iter().map(|r| r.to_vec()))
    }
}

fn show(bytes: u64) -> String {
    Units::Binary.show(bytes)
}

/// Tells the story on a fresh cluster. An error says what was not as it should be.
pub async fn tell(setup: &Setup, size: u64) -> Done {
    if size < SMALLEST || size > setup.pool_size / 2 || !size.is_multiple_of(8 << 20) {
        return Err(Failure::usage(format!(
            "--demo-size {}: a multiple of 8 MiB from {} to half of --pool-size is needed",
            show(size),
            show(SMALLEST)
        )));
    }
    let mut story = Story { began: Instant::now(), rows: Vec::new() };
    story.say(format!("starting {} storage nodes and a control plane in {}", setup.nodes, setup.dir.display()))?;
    let mut cluster = Cluster::start(setup).await?;
    let told = scenes(&mut story, &mut cluster, size).await;
    let files: Vec<(String, PathBuf)> =
        cluster.processes().into_iter().map(|(name, _)| (name.clone(), cluster.pool_path(&name))).collect();
    cluster.stop().await;
    let told = match told {
        Ok(volume) => compare(&mut story, &volume, &files).await,
        Err(failure) => Err(failure),
    };
    output::print(&format!("\n{}\n", story.table()))?;
    told?;
    output::print("Every acknowledged byte is there, on the volume and on each of its copies.\n")
}

/// The story until the cluster is stopped; returns the volume as it is then.
async fn scenes(story: &mut Story, cluster: &mut Cluster, size: u64) -> Result<v1::Volume, Failure> {
    cluster.ready().await?;
    let mut client = cluster.client().await?;
    let said = |what: &'static str| move |s: tonic::Status| Failure::failed(format!("{what}: {}", s.message()));

    let step = Instant::now();
    let request = v1::CreateVolumeRequest { name: VOLUME.into(), size, replicas: 3, ..Default::default() };
    client.create_volume(request).await.map_err(said("the volume was not created"))?;
    let publish = v1::PublishVolumeRequest { name: VOLUME.into(), node: String::new() };
    client.publish_volume(publish).await.map_err(said("the volume was not published"))?;
    let published = wait(cluster, story, |v| !v.device_uri.is_empty() && is_whole(v)).await?;
    let (uri, target) = (published.device_uri.clone(), published.target_node.clone());
    let nodes: Vec<&str> = published.replicas.iter().map(|r| r.node.as_str()).collect();
    story.say(format!("volume {VOLUME}: {} with copies on {}, served at {uri}", show(size), nodes.join(", ")))?;
    story.row("create volume", format!("{}, 3 copies: {}", show(size), nodes.join(", ")), Some(step.elapsed()));

    // The first half of the volume is for the image, the second for the workload.
    let half = size / 2;
    let step = Instant::now();
    let path = cluster.dir().join("demo.img");
    let content = on_thread({
        let path = path.clone();
        move || Content::make(&path, half)
    })
    .await?;
    story.say(format!("made {content}, {}", show(half)))?;
    let moved = import(&uri, &path, half).await?;
    story.say(format!("imported it into the volume: {} of data", show(moved.data)))?;
    story.row("import image", format!("{content}, {} of data", show(moved.data)), Some(step.elapsed()));

    let work = Work::start(uri.clone(), half, size - half);
    tokio::time::sleep(Duration::from_secs(2)).await;
    work.check()?;
    let victim = nodes.iter().find(|n| **n != target).map(|n| (*n).to_owned());
    let victim = victim.ok_or_else(|| Failure::failed("all copies are on one node"))?;
    story.say(format!("{} verified requests so far; killing {victim} (SIGKILL) under load", work.requests()))?;
    let killed = Instant::now();
    cluster.kill(&victim).await?;
    let noticed = wait(cluster, story, |v| v.reason.contains(&victim)).await?;
    story.say(format!("noticed at once: {}", noticed.reason))?;
    story.row("kill a node under load", format!("{victim}; the control plane noticed"), Some(killed.elapsed()));
    let given_up = wait(cluster, story, |v| v.state != "online").await?;
    story.say(format!("the volume goes on without it: {}", given_up.reason))?;
    story.row("go on without it", "its copy is given up, waiting requests are answered", Some(killed.elapsed()));

    let before = work.requests();
    let healed = repair(cluster, story, &victim).await?;
    let new = healed.replicas.iter().find(|r| r.state == "online" && !nodes.contains(&r.node.as_str()));
    let new = new.map_or_else(|| "another pool".to_owned(), |r| format!("{}/{}", r.node, r.pool));
    story.say(format!("repaired by itself: the new copy is in {new}"))?;
    story.row("repair", format!("a new copy in {new}, no one asked"), Some(killed.elapsed()));

    tokio::time::sleep(Duration::from_secs(1)).await;
    let during = work.requests() - before;
    let step = Instant::now();
    let done = work.finish().await?;
    story.say(format!("workload stopped; {done}"))?;
    story.row("workload", format!("{} requests, {during} of them during the repair, no error", done.requests), None);
    story.row("longest wait", "of one request, over the loss of the node", Some(done.longest));
    story.row("verify workload", format!("{} written, all as acknowledged", show(done.bytes)), Some(step.elapsed()));

    let step = Instant::now();
    let back = cluster.dir().join("demo-back.img");
    check::same_image(&uri, &path, &back, half).await?;
    story.say("read the image back: every byte is as it was written")?;
    story.row("verify image", format!("{} compared, identical", show(half)), Some(step.elapsed()));
    if let Some(verdict) = content.check_file_system(&back).await? {
        story.say(format!("e2fsck: {verdict}"))?;
        story.row("file system check", verdict, None);
    }
    let name = v1::VolumeName { name: VOLUME.into() };
    client.unpublish_volume(name.clone()).await.map_err(said("the volume was not unpublished"))?;
    let last = client.get_volume(name).await.map_err(said("the volume cannot be shown"))?;
    Ok(last.into_inner())
}

/// With all processes stopped: the copies, read straight from the pools' files, are the same.
async fn compare(story: &mut Story, volume: &v1::Volume, files: &[(String, PathBuf)]) -> Done {
    let step = Instant::now();
    let file_of = |node: &str| files.iter().find(|(n, _)| n == node).map(|(_, path)| path.clone());
    let copies: Vec<check::Copy> = volume
        .replicas
        .iter()
        .filter(|r| r.state == "online")
        .filter_map(|r| Some(check::Copy { node: r.node.clone(), uuid: r.uuid.clone(), file: file_of(&r.node)? }))
        .collect();
    if copies.len() != 3 {
        return Err(Failure::failed(format!("{} good copies are left, 3 are wanted", copies.len())));
    }
    let names: Vec<String> = copies.iter().map(|c| format!("{}/{POOL}", c.node)).collect();
    let size = volume.size;
    on_thread(move || check::same_copies(copies, size)).await?;
    story.say(format!("all processes stopped; the copies in {} are identical, byte for byte", names.join(", ")))?;
    story.row("compare copies", format!("{} each, identical: {}", show(size), names.join(", ")), Some(step.elapsed()));
    Ok(())
}

/// All wanted copies are in sync.
fn is_whole(v: &v1::Volume) -> bool {
    let good = v.replicas.iter().filter(|r| r.state == "online").count();
    v.state == "online" && good == v.replicas_wanted as usize
}

fn volume_of(cluster: &Cluster) -> Option<v1::Volume> {
    cluster.control().status().volumes.into_iter().find(|v| v.name == VOLUME)
}

/// Waits for something to become true of the volume.
async fn wait(cluster: &Cluster, story: &Story, wish: impl Fn(&v1::Volume) -> bool) -> Result<v1::Volume, Failure> {
    let until = Instant::now() + PATIENCE;
    let (mut seen, mut said) = (0, String::new());
    loop {
        let volume = volume_of(cluster).ok_or_else(|| Failure::failed("the volume is gone"))?;
        if wish(&volume) {
            return Ok(volume);
        }
        if Instant::now() > until {
            return Err(Failure::failed(format!("the volume stays {}: {}", volume.state, volume.reason)));
        }
        let now = format!("{} {}", volume.state, volume.reason);
        if volume.state == "faulted" && said != now {
            story.say(format!("the volume is faulted: {}", volume.reason))?;
            said = now;
        }
        let changed = tokio::time::timeout(Duration::from_millis(100), cluster.control().changed(seen)).await;
        seen = changed.unwrap_or(seen);
    }
}

/// Waits for the repair and shows how far it is.
async fn repair(cluster: &Cluster, story: &Story, victim: &str) -> Result<v1::Volume, Failure> {
    let bar = image::bar("rebuild", 1, true);
    let mut told = (String::new(), 0);
    let until = Instant::now() + PATIENCE;
    let result = loop {
        let volume = volume_of(cluster).ok_or_else(|| Failure::failed("the volume is gone"))?;
        if is_whole(&volume) && volume.replicas.iter().all(|r| r.node != victim || r.state != "online") {
            break Ok(volume);
        }
        if Instant::now() > until {
            break Err(Failure::failed(format!("the volume stays {}: {}", volume.state, volume.reason)));
        }
        let rebuild = volume.replicas.iter().find_map(|r| r.rebuild.as_ref().map(|b| (r.node.clone(), b.clone())));
        let step = rebuild.as_ref().map_or(0, |(_, b)| crate::client::progress::percent(b) / 10);
        if let Some((_, b)) = &rebuild {
            bar.set_length(b.bytes_total);
            bar.set_position(b.bytes_done);
        }
        // The numbers go by in the bar; here only what is new.
        let words: String = volume.reason.chars().filter(|c| !c.is_ascii_digit()).collect();
        let plain = !output::is_terminal();
        if !volume.reason.is_empty() && (told.0 != words || (plain && told.1 != step)) {
            bar.suspend(|| story.say(&volume.reason))?;
            told = (words, step);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    bar.finish_and_clear();
    result
}

async fn import(uri: &str, path: &Path, bytes: u64) -> Result<image::Moved, Failure> {
    let (uri, path) = (uri.to_owned(), path.to_owned());
    on_thread(move || {
        let file = std::fs::File::open(&path).map_err(Failure::failed)?;
        image::on_ring(move |host| async move {
            let disk = image::connect(&host, &uri).await?;
            let bar = image::bar("import", bytes, true);
            let shown = bar.clone();
            let moved = image::write_file(&disk, &file, bytes, Box::new(move |done| shown.set_position(done))).await;
            bar.finish_and_clear();
            disk.close().await;
            moved
        })
    })
    .await
}

/// Runs something that blocks.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::failed)?
}
