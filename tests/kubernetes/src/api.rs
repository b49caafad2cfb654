//! etcd and the API server.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::Result;
use crate::cluster::{end, run, spawn};

const PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";
/// How long they may take to come up.
const START: Duration = Duration::from_secs(120);
/// Who the control plane is; `system:serviceaccount:` and its namespace and name.
pub const OPERATOR: &str = "system:serviceaccount:mayastor:mayastor-control";

/// A program in the folder that `KUBEBUILDER_ASSETS` names, or in the path.
pub fn find(name: &str) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = assets.into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// What is needed and not there.
pub fn missing() -> Vec<&'static str> {
    ["etcd", "kube-apiserver", "kubectl", "openssl"].into_iter().filter(|name| find(name).is_none()).collect()
}

/// The API server. It ends with this value.
pub struct Api {
    folder: PathBuf,
    etcd: Child,
    server: Option<Child>,
}

impl Api {
    pub fn start(folder: &Path) -> Result<Api> {
        keys(folder)?;
        let etcd = spawn(&program("etcd"), folder, "etcd", |c| {
            c.args(["--unsafe-no-fsync", "--listen-peer-urls", "http://127.0.0.1:2380"]);
            c.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
            c.arg("--data-dir").arg(folder.join("etcd"));
        })?;
        let mut api = Api { folder: folder.to_owned(), etcd, server: None };
        api.up()?;
        Ok(api)
    }

    /// Starts the API server, if it does not run, and waits until it is ready.
    pub fn up(&mut self) -> Result<()> {
        if self.server.is_some() {
            return Ok(());
        }
        let file = |name: &str| self.folder.join(name).display().to_string();
        let server = spawn(&program("kube-apiserver"), &self.folder, "apiserver", |c| {
            c.args([
                "--etcd-servers",
                ETCD,
                "--bind-address",
                "127.0.0.1",
                "--advertise-address",
                "10.78.0.1",
                "--endpoint-reconciler-type",
                "none",
            ]);
            c.args(["--secure-port", &PORT.to_string(), "--service-cluster-ip-range", "10.96.0.0/24"]);
            c.args(["--tls-cert-file", &file("server.crt"), "--tls-private-key-file", &file("server.key")]);
            c.args(["--token-auth-file", &file("tokens.csv"), "--authorization-mode", "Node,RBAC"]);
            c.args(["--service-account-key-file", &file("accounts.pub")]);
            c.args(["--service-account-signing-key-file", &file("accounts.key")]);
            c.args(["--service-account-issuer", "https://kubernetes.default.svc", "--allow-privileged=true"]);
        })?;
        self.server = Some(server);
        let end = Instant::now() + START;
        while self.kubectl(&["get", "--raw", "/readyz"]).is_err() {
            if let Some(ended) = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten()) {
                return Err(format!("kube-apiserver ended ({ended}); see apiserver.log").into());
            }
            if Instant::now() > end {
                return Err("kube-apiserver is not ready; see apiserver.log".into());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    /// Kills the API server.
    pub fn down(&mut self) {
        if let Some(server) = self.server.take() {
            end(server, "-9");
        }
    }

    /// The kubeconfig of a user.
    pub fn config(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    /// Runs kubectl as the cluster's administrator.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let config = self.config("admin").display().to_string();
        let fixed = ["--kubeconfig", &config, "-n", "mayastor", "--request-timeout", "20s"];
        crate::cluster::output(&program("kubectl"), &[&fixed[..], args].concat(), None)
    }

    /// Runs kubectl with something to read.
    pub fn feed(&self, args: &[&str], input: &str) -> Result<String> {
        let config = self.config("admin").display().to_string();
        let fixed = ["--kubeconfig", &config, "-n", "mayastor", "--request-timeout", "20s"];
        crate::cluster::output(&program("kubectl"), &[&fixed[..], args].concat(), Some(input))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.down();
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn program(name: &str) -> PathBuf {
    find(name).expect("it was looked for before")
}

/// A CA, the server's certificate, the keys of service accounts, and two users with tokens.
fn keys(folder: &Path) -> Result<()> {
    let file = |name: &str| folder.join(name).display().to_string();
    let openssl = |line: &str| run("openssl", &line.split(' ').collect::<Vec<_>>());
    let (ca, ca_key) = (file("ca.crt"), file("ca.key"));
    openssl(&format!("req -x509 -newkey rsa:2048 -nodes -keyout {ca_key} -out {ca} -subj /CN=test-ca -days 2"))?;
    openssl(&format!(
        "req -newkey rsa:2048 -nodes -keyout {} -out {} -subj /CN=kube-apiserver",
        file("server.key"),
        file("server.csr")
    ))?;
    std::fs::write(file("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")?;
    openssl(&format!(
        "x509 -req -in {} -CA {ca} -CAkey {ca_key} -CAcreateserial -days 2 -extfile {} -out {}",
        file("server.csr"),
        file("names"),
        file("server.crt")
    ))?;
    openssl(&format!("genrsa -out {} 2048", file("accounts.key")))?;
    openssl(&format!("rsa -in {} -pubout -out {}", file("accounts.key"), file("accounts.pub")))?;
    let groups = "\"system:serviceaccounts,system:serviceaccounts:mayastor,system:authenticated\"";
    let tokens = format!(
        "admin-token,admin,1,\"system:masters\"\noperator-token,{OPERATOR},2,{groups}\nperson-token,person,3,\"people\"\n"
    );
    std::fs::write(file("tokens.csv"), tokens)?;
    for user in ["admin", "operator", "person"] {
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{PORT}"), "certificate-authority": ca,
            }}],
            "users": [{ "name": user, "user": { "token": format!("{user}-token") } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user, "namespace": "mayastor" } }],
            "current-context": "test",
        });
        std::fs::write(file(&format!("{user}.kubeconfig")), config.to_string())?;
    }
    Ok(())
}
