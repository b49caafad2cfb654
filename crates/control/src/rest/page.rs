//! The page: the files of `web/`, part of the program, so that it works without any other resource.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

macro_rules! files {
    ($($name:literal $kind:literal),* $(,)?) => {
        const FILES: &[(&str, &str, &[u8])] =
            &[$(($name, $kind, include_bytes!(concat!("../../../../web/", $name)))),*];
    };
}
files!(
    "index.html" "text/html; charset=utf-8",
    "style.css" "text/css; charset=utf-8",
    "app.js" "text/javascript; charset=utf-8",
    "source.js" "text/javascript; charset=utf-8",
    "view.js" "text/javascript; charset=utf-8",
    "volumes.js" "text/javascript; charset=utf-8",
    "chart.js" "text/javascript; charset=utf-8",
    "dialogs.js" "text/javascript; charset=utf-8",
    "format.js" "text/javascript; charset=utf-8",
    "icon.svg" "image/svg+xml",
);

fn send(name: &str) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, kind, bytes)) => ([(header::CONTENT_TYPE, *kind)], *bytes).into_response(),
        None => {
            Problem::not_found(format!("there is no {name:?} here; /openapi.json lists what there is")).into_response()
        }
    }
}

/// The page itself.
pub async fn index() -> Response {
    send("index.html")
}

/// One of its files.
pub async fn file(Path(name): Path<String>) -> Response {
    send(&name)
}
