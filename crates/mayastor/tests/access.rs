//! Who may ask: a control plane and an engine that want tokens, and the same behind TLS.
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Dir, client, program};

/// A role that runs until it is dropped, and the first lines that it printed.
struct Process(Child, Vec<String>);

impl Process {
    fn start(line: &[&str], lines: usize) -> Process {
        let mut command = program();
        command.args(line).env("MAYASTOR_PARENT", std::process::id().to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let first = (0..lines).map(|_| out.next().expect("a line").expect("text")).collect();
        std::thread::spawn(move || out.for_each(drop));
        Process(child, first)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The `IP:PORT` after a word of a line.
fn after<'a>(line: &'a str, word: &str) -> &'a str {
    let rest = line.split_once(word).unwrap_or_else(|| panic!("{word} in {line}")).1;
    rest.split([',', ' ']).next().unwrap_or_default()
}

/// The status and the whole answer of a request over HTTP.
fn http(at: &str, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(at).expect("a connection");
    let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\n{token}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, answer)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Tokens of all roles in a file, by `mayastor token create`.
fn tokens(dir: &Dir) -> [String; 3] {
    let file = dir.path("tokens");
    ["read", "operate", "admin"].map(|role| {
        let made = client(&["-q"], &format!("token create {role}-er --role {role} --tokens {file}")).ok();
        let path = dir.path(&format!("{role}.token"));
        std::fs::write(&path, &made).expect("written");
        path
    })
}

#[test]
fn roles_on_all_ports_and_a_record_of_who_did_what() {
    let dir = Dir::new();
    let [read, operate, admin] = tokens(&dir);
    let file = dir.path("tokens");
    let data = dir.path("control");
    let control = ["control", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--auth", "on", "--tokens", &file];
    let control = Process::start(&[&control[..], &["--data-dir", &data, "-L", "warn"]].concat(), 2);
    let (grpc, web) = (after(&control.1[0], "gRPC ").to_owned(), after(&control.1[0], "page http://").to_owned());
    let cluster = format!("{data}/cluster.token");
    assert!(control.1[1].contains(&cluster), "{:?}", control.1);
    let engine = ["engine", "-g", "127.0.0.1:0", "--nvme", "127.0.0.1:0", "-N", "n1", "--control", &grpc, "-L", "warn"];
    let engine = [&engine[..], &["--auth", "on", "--token-file", &cluster, "--tokens", &file]].concat();
    let engine = Process::start(&engine, 1);
    let node = after(&engine.1[0], "gRPC ").to_owned();

    let ask = |token: &str, line: &str| client(&["--control", &grpc, "--engine", &node, "--token-file", token], line);
    // The engine and the control plane found each other by the cluster's token.
    until("the node is online", || ask(&read, "node list").ok().contains("online"));

    // Nobody.
    for line in ["node list", "pool list", "bdev list", "config show"] {
        let refused = client(&["--control", &grpc, "--engine", &node], line).fails(1);
        assert!(refused.contains("--token-file"), "{line}: {refused}");
    }
    let disk = dir.disk("disk", 256);
    // Each role, on the control plane and on the engine.
    assert!(ask(&read, "volume create v --size 4MiB -r 1").fails(1).contains("needs operate"));
    assert!(ask(&operate, &format!("pool create p {disk}")).fails(1).contains("needs admin"));
    ask(&read, "pool list").ok();
    ask(&admin, &format!("pool create p {disk}")).ok();
    until("the pool is reported", || ask(&read, "status -o json").ok().contains("\"p\""));
    ask(&operate, "volume create v --size 4MiB -r 1").ok();
    ask(&operate, "volume publish v").ok();

    // The same over HTTP.
    let secret = |path: &str| std::fs::read_to_string(path).expect("a token").trim().to_owned();
    let read_file = read.clone();
    let [read, operate] = [read, operate].map(|path| secret(&path));
    for path in ["/", "/app.js", "/openapi.json"] {
        assert_eq!(http(&web, "GET", path, None).0, 200, "{path}");
    }
    for path in ["/v1/status", "/metrics", "/v1/events", "/v1/watch"] {
        let (status, text) = http(&web, "GET", path, None);
        assert!(status == 401 && text.to_lowercase().contains("www-authenticate: bearer"), "{path}: {text}");
    }
    assert_eq!(http(&web, "GET", "/v1/status", Some(&read)).0, 200);
    assert_eq!(http(&web, "GET", "/v1/status", Some("wrong")).0, 401);
    assert_eq!(http(&web, "DELETE", "/v1/volumes/v", Some(&read)).0, 403);
    assert_eq!(http(&web, "POST", "/v1/volumes/v/unpublish", Some(&operate)).0, 200);

    // The role read is enough to explain and to collect, and what is collected has no token in it.
    assert!(ask(&read_file, "explain volume v --seconds 1").ok().contains("volume v is "));
    let bundle = dir.path("bundle.tar.gz");
    ask(&read_file, &format!("support bundle --out {bundle} --page {web} --logs {}", dir.0.display())).ok();
    let mut text = Vec::new();
    let packed = std::fs::File::open(&bundle).expect("a bundle");
    flate2::read::GzDecoder::new(packed).read_to_end(&mut text).expect("gzip");
    let text = String::from_utf8_lossy(&text);
    for part in ["control/status.json", "control/metrics.txt", "nodes/n1/statistics.json", "mayastor_volume_state{"] {
        assert!(text.contains(part), "{part}");
    }
    assert!(!text.contains(&read) && !text.contains(&secret(&cluster)));

    // Who did what, without any token in it.
    let events = http(&web, "GET", "/v1/events", Some(&read)).1;
    let json: serde_json::Value =
        serde_json::from_str(&events[events.find("\r\n\r\n").expect("a body")..]).expect("JSON");
    let by = |object: &str, kind: &str, actor: &str| {
        let list = json.as_array().expect("a list");
        list.iter().any(|e| e["object"] == object && e["kind"] == kind && e["actor"] == actor)
    };
    assert!(by("volume/v", "volume-created", "operate-er") && by("volume/v", "called", "operate-er"), "{json:#}");
    assert!(!events.contains(&read) && !events.contains("mayastor_"), "{events}");

    // Taken back while it runs.
    client(&[], &format!("token revoke read-er --tokens {file}")).ok();
    assert_eq!(http(&web, "GET", "/v1/status", Some(&read)).0, 401);
    assert_eq!(
        client(&["-q"], &format!("token list --tokens {file}")).ok(),
        "operate-er  operate\nadmin-er    admin\n"
    );
    client(&[], &format!("token revoke read-er --tokens {file}")).fails(4);
}

#[test]
fn a_port_for_others_does_not_open_without_a_token() {
    let refused = client(&[], "engine -g 0.0.0.0:0").fails(2);
    assert!(refused.contains("--token-file") && refused.contains("--auth off"), "{refused}");
    assert!(client(&[], "engine -g 0.0.0.0:0 --token-file /does/not/exist").fails(2).contains("/does/not/exist"));
}

/// An authority, and certificates that it signed.
fn certificates(dir: &Path) {
    use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
    let key = || KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = key();
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("written");
    write("ca.pem", ca.self_signed(&ca_key).expect("signed").pem());
    let issuer = Issuer::new(ca, ca_key);
    for (name, uri) in [("server", "mayastor://admin/node-1"), ("reader", "mayastor://read/bob"), ("odd", "https://x/")]
    {
        let mut params = CertificateParams::new(vec!["mayastor.test".to_owned()]).expect("parameters");
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
        let key = key();
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).expect("signed").pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[test]
fn certificates_encrypt_and_are_credentials() {
    let dir = Dir::new();
    certificates(&dir.0);
    let (ca, data) = (dir.path("ca.pem"), dir.path("control"));
    let (cert, key) = (dir.path("server.pem"), dir.path("server.key"));
    let own = ["--tls-ca", &ca, "--tls-name", "mayastor.test", "--tls-cert", &cert, "--tls-key", &key];
    let [read, ..] = tokens(&dir);
    let file = dir.path("tokens");
    let doors = ["--auth", "on", "--tls-client-ca", &ca, "--tokens", &file, "-L", "warn"];
    let control = ["control", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", &data];
    let control = Process::start(&[&control[..], &own, &doors].concat(), 1);
    let grpc = after(&control.1[0], "gRPC ").to_owned();
    assert!(control.1[0].contains("page https://"), "{:?}", control.1);
    let engine = ["engine", "-g", "127.0.0.1:0", "--nvme", "127.0.0.1:0", "-N", "n1", "--control", &grpc];
    // No token at all: both sides know each other by their certificates.
    let _engine = Process::start(&[&engine[..], &own, &doors].concat(), 1);
    let ask = |name: &str, line: &str| {
        let (cert, key) = (dir.path(&format!("{name}.pem")), dir.path(&format!("{name}.key")));
        let shown = ["--tls-ca", &ca, "--tls-name", "mayastor.test", "--tls-cert", &cert, "--tls-key", &key];
        client(&[&["--control", &grpc][..], &shown].concat(), line)
    };
    until("the node is online", || ask("reader", "node list").ok().contains("online"));
    let refused = ask("reader", "volume create v --size 4MiB -r 1").fails(1);
    assert!(refused.contains("bob has the role read"), "{refused}");
    assert!(ask("odd", "node list").fails(1).contains("a token is needed"));
    // A token works beside it, and who trusts nobody gets nothing.
    let trusting = ["--control", &grpc, "--tls-ca", &ca, "--tls-name", "mayastor.test"];
    client(&[&trusting[..], &["--token-file", &read]].concat(), "node list").ok();
    client(&trusting, "node list").fails(1);
    client(&["--control", &grpc, "--token-file", &read], "node list").fails(3);
    client(&["--control", &grpc, "--tls-ca", &ca], "node list").fails(3);
}
