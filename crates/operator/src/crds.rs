//! The CustomResourceDefinitions, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::resource::{MayastorNode, MayastorPool, MayastorVolume};

/// All of them.
pub fn crds() -> [CustomResourceDefinition; 3] {
    [MayastorNode::crd(), MayastorPool::crd(), MayastorVolume::crd()]
}

/// All of them as one YAML file.
pub fn yaml() -> String {
    let mut text = String::from("# Made by `mayastor control crds`; not to be edited.\n");
    for crd in crds() {
        text += "---\n";
        text += &serde_norway::to_string(&crd).expect("a definition is plain data");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_the_types_say() {
        for file in ["../../deploy/kubernetes/crds.yaml", "../../deploy/helm/mayastor/crds/crds.yaml"] {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            assert!(text == yaml(), "{file} is old: cargo run -- control crds > {file}");
        }
    }
}
