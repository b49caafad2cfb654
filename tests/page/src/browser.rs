//! A headless Chromium, driven over the WebDriver protocol (W3C).

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Result, http};

/// See the module.
pub struct Browser {
    driver: Child,
    at: SocketAddr,
    session: String,
    profile: PathBuf,
    shots: PathBuf,
}

/// The size of a screen.
#[derive(Clone, Copy)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub mobile: bool,
    pub dark: bool,
}

impl Browser {
    /// Starts it; screenshots go to `shots`.
    pub fn start(shots: &Path) -> Result<Browser> {
        std::fs::create_dir_all(shots)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let profile = std::env::temp_dir().join(format!("mayastor-page-{}", std::process::id()));
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("chromedriver: {e}; the Debian package chromium-driver has it"))?;
        let mut browser = Browser { driver, at, session: String::new(), profile, shots: shots.to_owned() };
        let until = Instant::now() + Duration::from_secs(20);
        while http::ask(at, "GET", "/status", "").is_err() {
            if Instant::now() > until {
                return Err("chromedriver does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let profile = format!("--user-data-dir={}", browser.profile.display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            &profile,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"}
        }}});
        let answer = browser.send("POST", "/session", &wanted)?;
        browser.session = answer["sessionId"].as_str().ok_or("no session")?.to_owned();
        Ok(browser)
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let (status, text) = http::ask(self.at, method, path, &body)?;
        let answer: Value = serde_json::from_str(&text).map_err(|e| format!("{method} {path}: {e}: {text}"))?;
        if status == 200 { Ok(answer["value"].clone()) } else { Err(format!("{path}: {}", answer["value"]).into()) }
    }
    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Opens an address.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({"url": url})).map(drop)
    }
    /// Runs a function body in the page and returns what it returns.
    pub fn run(&self, script: &str, arguments: &[Value]) -> Result<Value> {
        self.post("/execute/sync", &json!({"script": script, "args": arguments}))
    }
    /// A command of the DevTools protocol.
    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Looks like this screen from now on.
    pub fn screen(&self, s: Screen) -> Result<()> {
        let ratio = if s.mobile { 2 } else { 1 };
        let size = json!({"width": s.width, "height": s.height, "deviceScaleFactor": ratio, "mobile": s.mobile});
        self.devtools("Emulation.setDeviceMetricsOverride", &size)?;
        let theme = if s.dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.devtools("Emulation.setEmulatedMedia", &media).map(drop)
    }

    /// Keeps a picture of the page, of its whole length when `whole`.
    pub fn shoot(&self, name: &str, whole: bool) -> Result<()> {
        let wanted = json!({"format": "png", "captureBeyondViewport": whole});
        let mut wanted = wanted;
        if whole {
            let size =
                self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]", &[])?;
            wanted["clip"] = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        }
        let picture = self.devtools("Page.captureScreenshot", &wanted)?;
        let bytes = base64(picture["data"].as_str().ok_or("no picture")?);
        let path = self.shots.join(format!("{name}.png"));
        std::fs::write(&path, bytes)?;
        println!("  picture {}", path.display());
        Ok(())
    }

    fn find(&self, selector: &str) -> Result<String> {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}))?;
        let id = found.as_object().and_then(|o| o.values().next()).and_then(Value::as_str);
        Ok(id.ok_or("no element")?.to_owned())
    }
    /// Clicks as a person does: it must be visible and not covered.
    pub fn click(&self, selector: &str) -> Result<()> {
        // A page that is still being scrolled smoothly is a moving target.
        let script = "document.querySelector(arguments[0]).scrollIntoView({block: 'center', behavior: 'instant'})";
        self.run(script, &[selector.into()])?;
        let id = self.find(selector)?;
        self.post(&format!("/element/{id}/click"), &json!({})).map(drop)
    }
    /// Types into a field, in place of what is there.
    pub fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let id = self.find(selector)?;
        self.post(&format!("/element/{id}/clear"), &json!({}))?;
        self.post(&format!("/element/{id}/value"), &json!({"text": text})).map(drop)
    }
    /// Presses keys, wherever the focus is.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        let strokes: Vec<Value> = keys
            .iter()
            .flat_map(|k| [json!({"type": "keyDown", "value": k}), json!({"type": "keyUp", "value": k})])
            .collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})).map(drop)
    }

    /// Waits until an expression in the page is true; says what it waited for, and what the page shows, when it is not.
    pub fn until(&self, what: &str, expression: &str, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        // What is not there yet is not true yet.
        let script = format!("try {{ return Boolean({expression}) }} catch {{ return false }}");
        while self.run(&script, &[])? != true {
            if begun.elapsed() > limit {
                let shown = self.run("return document.body.innerText", &[])?;
                self.shoot("failure", true)?;
                return Err(format!("not in {} s: {what}\n{}", limit.as_secs(), shown.as_str().unwrap_or("?")).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("  {what} ({:.1} s)", begun.elapsed().as_secs_f32());
        Ok(())
    }

    /// What the browser complained about since it was asked last.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.post("/se/log", &json!({"type": "browser"}))?;
        let lines = log.as_array().cloned().unwrap_or_default();
        let grave = |l: &&Value| ["SEVERE", "WARNING"].contains(&l["level"].as_str().unwrap_or_default());
        Ok(lines.iter().filter(grave).map(|l| l["message"].as_str().unwrap_or("?").to_owned()).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser; chromedriver is ended by itself.
        let _ = self.send("DELETE", &format!("/session/{}", self.session), &json!({}));
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Bytes from base64; the driver's is well formed.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut have) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter_map(|b| DIGITS.iter().position(|d| *d == b)) {
        bits = bits << 6 | u32::try_from(digit).expect("below 64");
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have & 0xff) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_as_it_is_known() {
        assert_eq!(super::base64("SGVsbG8="), b"Hello");
        assert_eq!(super::base64("AAECAw=="), [0, 1, 2, 3]);
    }
}
