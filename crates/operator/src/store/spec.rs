//! What people see of a volume's record in its `spec`, and how an edit there is told from a change of ours.

use std::collections::BTreeSet;

use control::store::StoreError;
use serde_json::{Value, json};

/// Sizes of volumes are multiples of this, in bytes.
const UNIT: u64 = 4096;

/// The size that a volume gets when so many bytes are required.
pub(crate) fn size(required_bytes: u64) -> u64 {
    required_bytes.next_multiple_of(UNIT)
}

/// The name of a volume's object: the volume's.
pub(super) fn name(key: &str, data: &Value) -> Result<String, StoreError> {
    let why = || StoreError::Corrupt { key: key.to_owned(), why: "it has no name".to_owned() };
    data["name"].as_str().map(str::to_owned).ok_or_else(why)
}

/// The spec that asks for what the record says.
pub(super) fn of(data: &Value) -> Value {
    let mut spec = json!({ "replicaCount": data["replicas"], "requiredBytes": data["size"] });
    for (field, source) in [("preferredNodes", "preferred_nodes"), ("requiredNodes", "required_nodes")] {
        if data[source].as_array().is_some_and(|all| !all.is_empty()) {
            spec[field] = data[source].clone();
        }
    }
    if data["thin"] == true {
        spec["thin"] = true.into();
    }
    spec
}

fn names(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a spec asks for what the record says.
pub(super) fn agrees(spec: &Value, data: &Value) -> bool {
    spec["replicaCount"] == data["replicas"]
        && spec["requiredBytes"].as_u64().map(size) == data["size"].as_u64()
        && spec["thin"].as_bool().unwrap_or(false) == data["thin"].as_bool().unwrap_or(false)
        && names(&spec["preferredNodes"]) == names(&data["preferred_nodes"])
        && names(&spec["requiredNodes"]) == names(&data["required_nodes"])
}

/// The operations that bring a change of the record from `old` to `new` into the spec. A field where a person's edit waits
/// (it does not say what the old record said) is left alone.
pub(super) fn mirror(spec: &Value, old: &Value, new: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    let mut set = |field: &str, value: &Value| {
        let path = format!("/spec/{field}");
        if !spec[field].is_null() {
            operations.push(json!({ "op": "test", "path": path, "value": spec[field] }));
        }
        operations.push(json!({ "op": "add", "path": path, "value": value }));
    };
    if new["replicas"] != old["replicas"] && spec["replicaCount"] == old["replicas"] {
        set("replicaCount", &new["replicas"]);
    }
    let required = spec["requiredBytes"].as_u64().map(size);
    if new["size"] != old["size"] && required == old["size"].as_u64() {
        set("requiredBytes", &new["size"]);
    }
    for (field, source) in [("preferredNodes", "preferred_nodes"), ("requiredNodes", "required_nodes")] {
        if names(&new[source]) != names(&old[source]) && names(&spec[field]) == names(&old[source]) {
            set(field, &new[source]);
        }
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(replicas: u32, size: u64) -> Value {
        json!({ "name": "v", "replicas": replicas, "size": size, "thin": false, "required_nodes": [], "preferred_nodes": [] })
    }

    #[test]
    fn a_spec_made_of_a_record_agrees_with_it() {
        let mut data = record(2, 8192);
        assert!(agrees(&of(&data), &data));
        data["preferred_nodes"] = json!(["a", "b"]);
        data["thin"] = true.into();
        assert!(agrees(&of(&data), &data));
        assert!(!agrees(&of(&record(2, 8192)), &data));
    }

    #[test]
    fn bytes_are_rounded_up_when_they_are_compared() {
        let spec = json!({ "replicaCount": 2, "requiredBytes": 8000 });
        assert!(agrees(&spec, &record(2, 8192)));
        assert!(!agrees(&spec, &record(2, 4096)));
    }

    #[test]
    fn a_change_is_brought_into_the_spec_where_no_edit_waits() {
        let spec = of(&record(2, 8192));
        let operations = mirror(&spec, &record(2, 8192), &record(3, 8192));
        assert_eq!(
            operations,
            [
                json!({ "op": "test", "path": "/spec/replicaCount", "value": 2 }),
                json!({ "op": "add", "path": "/spec/replicaCount", "value": 3 }),
            ]
        );
        let edited = json!({ "replicaCount": 4, "requiredBytes": 8192 });
        assert_eq!(mirror(&edited, &record(2, 8192), &record(3, 8192)), Vec::<Value>::new());
        // That very edit being taken over changes nothing in the spec.
        assert_eq!(mirror(&edited, &record(2, 8192), &record(4, 8192)), Vec::<Value>::new());
    }
}
