//! Records that have no object of ours: each is a ConfigMap.

use std::collections::BTreeMap;

use control::store::{Entry, Expected, StoreError};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::call;
use super::object::{first_revision, is_failed_test};

/// Marks our ConfigMaps.
const LABEL: &str = "openebs.io/mayastor-record";
/// The key, which may have characters that names of objects have not.
const KEY: &str = "openebs.io/key";
const REVISION: &str = "openebs.io/revision";
const DATA: &str = "record";

/// The name of a key's object: what cannot be in a name is written as `-` and its code.
fn name(key: &str) -> String {
    let mut name = String::from("mayastor");
    name.push('.');
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => name.push(char::from(byte)),
            b'/' => name.push('.'),
            other => name.push_str(&format!("-{other:02x}")),
        }
    }
    name
}

fn api(client: &Client, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), namespace)
}

fn revision(map: &ConfigMap) -> Option<u64> {
    map.annotations().get(REVISION)?.parse().ok()
}

fn entry(map: &ConfigMap) -> Option<Entry> {
    let value = map.binary_data.as_ref()?.get(DATA)?.0.clone();
    Some(Entry { value, revision: revision(map)? })
}

fn map(key: &str, revision: u64, value: Vec<u8>) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name(key));
    map.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), "true".to_owned())]));
    let annotations = [(KEY.to_owned(), key.to_owned()), (REVISION.to_owned(), revision.to_string())];
    map.metadata.annotations = Some(annotations.into());
    map.binary_data = Some(BTreeMap::from([(DATA.to_owned(), ByteString(value))]));
    map
}

async fn find(client: &Client, namespace: &str, key: &str) -> Result<Option<ConfigMap>, StoreError> {
    Ok(call(api(client, namespace).get_opt(&name(key))).await?)
}

pub(super) async fn get(client: &Client, namespace: &str, key: &str) -> Result<Option<Entry>, StoreError> {
    Ok(find(client, namespace, key).await?.as_ref().and_then(entry))
}

async fn all(client: &Client, namespace: &str) -> Result<Vec<ConfigMap>, StoreError> {
    let ours = ListParams::default().labels(LABEL);
    Ok(call(api(client, namespace).list(&ours)).await?.items)
}

pub(super) async fn list(client: &Client, namespace: &str) -> Result<Vec<(String, Entry)>, StoreError> {
    let keyed = |map: &ConfigMap| Some((map.annotations().get(KEY)?.clone(), entry(map)?));
    Ok(all(client, namespace).await?.iter().filter_map(keyed).collect())
}

/// Makes a change. Each way to do it names the resource version of what was looked at, so that nothing is changed unseen.
pub(super) async fn commit(
    client: &Client,
    namespace: &str,
    key: &str,
    expected: Expected,
    value: Option<Vec<u8>>,
) -> Result<u64, StoreError> {
    let api = api(client, namespace);
    let conflict = || StoreError::Conflict(key.to_owned());
    let found = find(client, namespace, key).await?;
    let known = found.as_ref().and_then(revision);
    if !expected.fits(known) {
        return Err(conflict());
    }
    let new = known.map_or_else(first_revision, |known| known + 1);
    let done = match (found, value) {
        (None, None) => Ok(()),
        (None, Some(value)) => call(api.create(&PostParams::default(), &map(key, new, value))).await.map(drop),
        (Some(found), Some(value)) => {
            let mut map = map(key, new, value);
            map.metadata.resource_version = found.resource_version();
            call(api.replace(&name(key), &PostParams::default(), &map)).await.map(drop)
        }
        (Some(found), None) => {
            let it = Preconditions { uid: found.uid(), resource_version: found.resource_version() };
            let parameters = DeleteParams { preconditions: Some(it), ..DeleteParams::default() };
            call(api.delete(&name(key), &parameters)).await.map(drop)
        }
    };
    match done {
        Ok(()) => Ok(new),
        Err(error) if [404, 409].contains(&error.code()) => Err(conflict()),
        Err(error) => Err(error.into()),
    }
}

/// See `KubernetesStore::claim`.
pub(super) async fn claim(client: &Client, namespace: &str) -> Result<(), StoreError> {
    for map in all(client, namespace).await? {
        let mut known = revision(&map);
        while let Some(revision) = known {
            let path = format!("/metadata/annotations/{}", REVISION.replace('/', "~1"));
            let operations = json!([
                { "op": "test", "path": path, "value": revision.to_string() },
                { "op": "replace", "path": path, "value": (revision + 1).to_string() },
            ]);
            let patch =
                Patch::<()>::Json(serde_json::from_value(operations).expect("operations as the standard has them"));
            match call(api(client, namespace).patch(&map.name_any(), &PatchParams::default(), &patch)).await {
                Ok(_) => break,
                Err(error) if error.code() == 404 => break,
                Err(error) if error.code() == 409 || is_failed_test(&error) => {
                    let now = call(api(client, namespace).get_opt(&map.name_any())).await?;
                    known = now.as_ref().and_then(self::revision);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_differ_when_keys_do() {
        assert_eq!(super::name("meta/cluster"), "mayastor.meta.cluster");
        assert_eq!(super::name("a_B"), "mayastor.a-5f-42");
        assert_ne!(super::name("a.b"), super::name("a/b"));
    }
}
