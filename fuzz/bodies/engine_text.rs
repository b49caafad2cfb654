//! Arbitrary text as the configuration file and as a device URI: understood or refused, and what is understood means the
//! same when it is written and read again.

use engine::config::{Config, parse_size};
use engine::uri::DeviceUri;

/// The first byte: 0 a URI, 1 a configuration file, 2 a size.
pub fn run(input: &[u8]) {
    let [what, bytes @ ..] = input else { return };
    match what & 3 {
        0 => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let Ok(uri) = DeviceUri::parse(text) else { return };
            assert_eq!(uri.text(), text);
            let again = DeviceUri::parse(&uri.canonical()).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert_eq!((&again.device, again.uuid), (&uri.device, uri.uuid), "{text:?}");
            assert_eq!(again.name(), uri.name());
            assert_eq!(again.canonical(), uri.canonical());
        }
        1 => {
            let Ok(config) = Config::parse("fuzz.yaml", bytes) else { return };
            let text = config.to_yaml();
            let again = Config::parse("again.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{e}:\n{text}"));
            assert_eq!(again.to_yaml(), text);
        }
        _ => {
            let _ = std::str::from_utf8(bytes).map(parse_size);
        }
    }
}
