//! Settings that can be changed while the node runs. Each is a whole number with a range, a default and a sentence.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use block::Bytes;

use crate::model::{Error, SettingInfo};
use crate::volume;

/// All that the settings say.
#[derive(Clone, Copy, Debug)]
struct Effective {
    nexus: volume::Settings,
    refused_deadline: Duration,
}

impl Default for Effective {
    fn default() -> Effective {
        Effective { nexus: volume::Settings::default(), refused_deadline: crate::remote::REFUSED_DEADLINE }
    }
}

struct Definition {
    name: &'static str,
    default: fn(&Effective) -> u64,
    range: RangeInclusive<u64>,
    apply: fn(&mut Effective, u64),
    help: &'static str,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const DEFINITIONS: &[Definition] = &[
    Definition {
        name: "nexus.clear_after_ms",
        default: |s| ms(s.nexus.clear_after),
        range: 1..=3_600_000,
        apply: |s, v| s.nexus.clear_after = Duration::from_millis(v),
        help: "milliseconds that a region stays marked as dirty after its last write",
    },
    Definition {
        name: "nexus.error_threshold",
        default: |s| s.nexus.error_threshold.into(),
        range: 0..=u32::MAX as u64,
        apply: |s, v| s.nexus.error_threshold = u32::try_from(v).expect("within the range"),
        help: "a child with more errors than this in one window is faulted",
    },
    Definition {
        name: "nexus.error_window_ms",
        default: |s| ms(s.nexus.error_window),
        range: 1..=86_400_000,
        apply: |s, v| s.nexus.error_window = Duration::from_millis(v),
        help: "milliseconds for which an error of a child counts",
    },
    Definition {
        name: "nexus.member_deadline_ms",
        default: |s| ms(s.nexus.member_deadline),
        range: 10..=3_600_000,
        apply: |s, v| s.nexus.member_deadline = Duration::from_millis(v),
        help: "a child that has not completed a request for so many milliseconds is faulted",
    },
    Definition {
        name: "nexus.refused_deadline_ms",
        default: |s| ms(s.refused_deadline),
        range: 0..=3_600_000,
        apply: |s, v| s.refused_deadline = Duration::from_millis(v),
        help: "a remote child whose machine has refused connections for so many milliseconds is faulted",
    },
    Definition {
        name: "rebuild.segment_kib",
        default: |s| s.nexus.rebuild_segment.0 >> 10,
        range: 4..=(block::limits::TRANSFER_BYTES as u64 >> 10),
        apply: |s, v| s.nexus.rebuild_segment = Bytes(v << 10),
        help: "KiB that one copy task of a rebuild moves; a multiple of 4",
    },
    Definition {
        name: "rebuild.tasks",
        default: |s| s.nexus.rebuild_tasks.into(),
        range: 1..=1024,
        apply: |s, v| s.nexus.rebuild_tasks = u32::try_from(v).expect("within the range"),
        help: "copy tasks that one rebuild runs at a time",
    },
];

/// The settings in force. Only those that differ from the default are kept and stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSettings {
    changed: BTreeMap<&'static str, u64>,
}

impl NodeSettings {
    /// Changes a setting; an empty value means the default.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let Some(definition) = DEFINITIONS.iter().find(|d| d.name == name) else {
            let known: Vec<_> = DEFINITIONS.iter().map(|d| d.name).collect();
            return Err(Error::not_found(format!("there is no setting '{name}' (known: {})", known.join(", "))));
        };
        if value.is_empty() {
            self.changed.remove(definition.name);
            return Ok(());
        }
        let number = value.parse::<u64>().ok().filter(|n| definition.range.contains(n));
        let Some(number) = number else {
            let (low, high) = (definition.range.start(), definition.range.end());
            return Err(Error::invalid(format!("{name}: '{value}' is not a whole number from {low} to {high}")));
        };
        let mut next = self.clone();
        next.changed.insert(definition.name, number);
        next.nexus().check().map_err(|why| Error::invalid(format!("{name}: '{value}': {why}")))?;
        if number == (definition.default)(&Effective::default()) {
            next.changed.remove(definition.name);
        }
        *self = next;
        Ok(())
    }

    /// What a nexus is told.
    pub fn nexus(&self) -> volume::Settings {
        self.effective().nexus
    }
    /// How long a remote target may be down when it is known to be; for connections made from now on.
    pub fn refused_deadline(&self) -> Duration {
        self.effective().refused_deadline
    }

    fn effective(&self) -> Effective {
        let mut settings = Effective::default();
        for definition in DEFINITIONS {
            if let Some(&value) = self.changed.get(definition.name) {
                (definition.apply)(&mut settings, value);
            }
        }
        settings
    }

    /// The settings that differ from their defaults.
    pub fn changed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.changed.iter().map(|(&name, &value)| (name, value))
    }

    /// All settings, by name.
    pub fn list(&self) -> Vec<SettingInfo> {
        let defaults = Effective::default();
        let info = |d: &Definition| {
            let default = (d.default)(&defaults);
            SettingInfo {
                name: d.name.into(),
                value: self.changed.get(d.name).copied().unwrap_or(default).to_string(),
                default: default.to_string(),
                help: format!("{} ({} to {})", d.help, d.range.start(), d.range.end()),
            }
        };
        DEFINITIONS.iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorKind;

    #[test]
    fn each_default_is_inside_its_range_and_reaches_the_nexus() {
        for definition in DEFINITIONS {
            let default = (definition.default)(&Effective::default());
            assert!(definition.range.contains(&default), "{}", definition.name);
            let other = if definition.name == "rebuild.segment_kib" { 128 } else { default + 1 };
            let mut settings = NodeSettings::default();
            settings.set(definition.name, &other.to_string()).unwrap();
            assert_eq!((definition.default)(&settings.effective()), other, "{}", definition.name);
            assert_eq!(settings.changed().count(), 1);
            settings.set(definition.name, &default.to_string()).unwrap();
            assert_eq!(settings, NodeSettings::default(), "the default is not stored");
        }
    }

    #[test]
    fn wrong_values_change_nothing() {
        let mut settings = NodeSettings::default();
        settings.set("rebuild.tasks", "4").unwrap();
        let before = settings.clone();
        for (name, value, kind) in [
            ("rebuild.task", "1", ErrorKind::NotFound),
            ("rebuild.tasks", "0", ErrorKind::InvalidArgument),
            ("rebuild.tasks", "1025", ErrorKind::InvalidArgument),
            ("rebuild.tasks", "many", ErrorKind::InvalidArgument),
            ("rebuild.segment_kib", "6", ErrorKind::InvalidArgument),
            ("nexus.error_threshold", "4294967296", ErrorKind::InvalidArgument),
            ("nexus.member_deadline_ms", "-1", ErrorKind::InvalidArgument),
        ] {
            let error = settings.set(name, value).expect_err(name);
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(name), "{error}");
            assert_eq!(settings, before);
        }
        settings.set("rebuild.tasks", "").unwrap();
        assert_eq!(settings, NodeSettings::default());
    }
}
