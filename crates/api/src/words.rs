//! The words by which people and programs know the values of enums.

use serde::Serializer;

/// An enum of the wire whose values have a word.
pub trait Word: TryFrom<i32> + Default {
    /// The name in the schema, e.g. `POOL_ONLINE`.
    fn schema_name(&self) -> &'static str;

    /// The word, e.g. `online`: the schema's name without what all names of the enum begin with, in lower case.
    fn word(&self) -> String {
        let name = self.schema_name();
        let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        rest.to_ascii_lowercase().replace('_', "-")
    }

    /// The word of a number from the wire; one that this version does not know reads as the enum's zero.
    fn word_of(value: i32) -> String {
        Self::try_from(value).unwrap_or_default().word()
    }
}

const PREFIXES: &[&str] = &["POOL_IO_", "POOL_", "REPLICA_", "NEXUS_", "CHILD_"];

macro_rules! words {
    ($($kind:ty),* $(,)?) => {
        $(impl Word for $kind {
            fn schema_name(&self) -> &'static str {
                self.as_str_name()
            }
        })*
    };
}
words!(
    crate::v0::PoolIoIf,
    crate::v0::PoolState,
    crate::v0::ShareProtocolReplica,
    crate::v0::ShareProtocolNexus,
    crate::v0::ChildState,
    crate::v0::NexusState,
    crate::v0::ChildAction,
    crate::v1::PoolState,
    crate::v1::NexusState,
    crate::v1::ChildState,
);

pub(crate) fn serialize<W: Word, S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&W::word_of(*value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{v0, v1};

    #[test]
    fn words_are_lower_case_and_without_prefix() {
        assert_eq!(v0::PoolIoIf::PoolIoUring.word(), "uring");
        assert_eq!(v0::PoolState::PoolOnline.word(), "online");
        assert_eq!(v0::ShareProtocolNexus::NexusNbd.word(), "nbd");
        assert_eq!(v0::ChildAction::Offline.word(), "offline");
        assert_eq!(v1::ChildState::ChildOutOfSync.word(), "out-of-sync");
        assert_eq!(v1::NexusState::word_of(99), "unknown");
    }
}
