//! What each call and each route needs. **A new RPC or REST route gets a line here**; a test fails without it, and until
//! then it needs the role admin.

use http::Method;

use crate::role::Need::{self, Nothing};
use crate::role::Role::{self, Admin, Operate, Read};

/// The RPCs of the services, each with the role that it needs.
///
/// `Read` changes nothing; `Operate` is what a volume's user does; `Admin` is the rest. Calls that need more than `Read`
/// are noted with the caller's name, but for those between engines and the control plane (`Registry`).
pub const RPCS: &[(&str, &[(&str, Role)])] = &[
    (
        "mayastor.v1.Control",
        &[
            ("ListNodes", Read),
            ("RemoveNode", Admin),
            ("SetNodeService", Admin),
            ("SetNodeLabels", Admin),
            ("GetLimits", Read),
            ("SetLimit", Admin),
            ("Rebalance", Admin),
            ("ListPools", Read),
            ("CreatePool", Admin),
            ("DestroyPool", Admin),
            ("CreateVolume", Operate),
            ("DestroyVolume", Operate),
            ("ListVolumes", Read),
            ("GetVolume", Read),
            ("PublishVolume", Operate),
            ("UnpublishVolume", Operate),
            ("SetReplicaCount", Operate),
            ("ResizeVolume", Operate),
            ("AttachVolume", Operate),
            ("DetachVolume", Operate),
            ("WatchStatus", Read),
            ("ListEvents", Read),
        ],
    ),
    ("mayastor.v1.Leadership", &[("GetLeader", Read)]),
    ("mayastor.v1.Registry", &[("Register", Admin), ("Deregister", Admin), ("RecordLedger", Admin)]),
    (
        "mayastor.v1.Engine",
        &[
            ("GetNode", Read),
            ("WatchNode", Read),
            ("GetStatistics", Read),
            ("CreatePool", Admin),
            ("ImportPool", Admin),
            ("ExportPool", Admin),
            ("DestroyPool", Admin),
            ("AddPoolDisk", Admin),
            ("CreateReplica", Admin),
            ("ShareReplica", Admin),
            ("ResizeReplica", Admin),
            ("DestroyReplica", Admin),
            ("InspectReplica", Read),
            ("CreateNexus", Admin),
            ("ResizeNexus", Admin),
            ("DestroyNexus", Admin),
            ("PublishNexus", Admin),
            ("UnpublishNexus", Admin),
            ("AddChild", Admin),
            ("RemoveChild", Admin),
            ("FaultChild", Admin),
            ("GetConfig", Read),
            ("SetConfig", Admin),
        ],
    ),
    (
        "mayastor.Mayastor",
        &[
            ("CreatePool", Admin),
            ("DestroyPool", Admin),
            ("ListPools", Read),
            ("CreateReplica", Admin),
            ("DestroyReplica", Admin),
            ("ListReplicas", Read),
            ("StatReplicas", Read),
            ("ShareReplica", Admin),
            ("CreateNexus", Admin),
            ("DestroyNexus", Admin),
            ("ListNexus", Read),
            ("AddChildNexus", Admin),
            ("RemoveChildNexus", Admin),
            ("PublishNexus", Admin),
            ("UnpublishNexus", Admin),
            ("ChildOperation", Admin),
            ("StartRebuild", Admin),
            ("StopRebuild", Admin),
            ("PauseRebuild", Admin),
            ("ResumeRebuild", Admin),
            ("GetRebuildState", Read),
            ("GetRebuildProgress", Read),
        ],
    ),
    (
        "mayastor.BdevRpc",
        &[("List", Read), ("Create", Admin), ("Destroy", Admin), ("Share", Admin), ("Unshare", Admin)],
    ),
];

/// The routes of the control plane's HTTP server, as the router and the OpenAPI document name them.
pub const ROUTES: &[(&str, &str, Need)] = &[
    ("GET", "/", Nothing),
    ("GET", "/{file}", Nothing),
    ("GET", "/openapi.json", Nothing),
    ("GET", "/metrics", Need::Role(Read)),
    ("GET", "/v1/status", Need::Role(Read)),
    ("GET", "/v1/nodes", Need::Role(Read)),
    ("GET", "/v1/nodes/{node}", Need::Role(Read)),
    ("GET", "/v1/pools", Need::Role(Read)),
    ("POST", "/v1/nodes/{node}/pools", Need::Role(Admin)),
    ("DELETE", "/v1/nodes/{node}/pools/{pool}", Need::Role(Admin)),
    ("GET", "/v1/volumes", Need::Role(Read)),
    ("POST", "/v1/volumes", Need::Role(Operate)),
    ("GET", "/v1/volumes/{volume}", Need::Role(Read)),
    ("DELETE", "/v1/volumes/{volume}", Need::Role(Operate)),
    ("POST", "/v1/volumes/{volume}/publish", Need::Role(Operate)),
    ("POST", "/v1/volumes/{volume}/unpublish", Need::Role(Operate)),
    ("PUT", "/v1/volumes/{volume}/replicas", Need::Role(Operate)),
    ("PUT", "/v1/volumes/{volume}/size", Need::Role(Operate)),
    ("GET", "/v1/events", Need::Role(Read)),
    ("GET", "/v1/history", Need::Role(Read)),
    ("POST", "/v1/nodes/{node}/cordon", Need::Role(Admin)),
    ("POST", "/v1/nodes/{node}/uncordon", Need::Role(Admin)),
    ("POST", "/v1/nodes/{node}/drain", Need::Role(Admin)),
    ("POST", "/v1/nodes/{node}/labels", Need::Role(Admin)),
    ("GET", "/v1/limits", Need::Role(Read)),
    ("PUT", "/v1/limits/{limit}", Need::Role(Admin)),
    ("POST", "/v1/rebalance", Need::Role(Admin)),
    ("DELETE", "/v1/rebalance", Need::Role(Admin)),
    ("GET", "/v1/watch", Need::Role(Read)),
];

/// What the RPC at a path such as `/mayastor.v1.Control/ListNodes` needs.
pub fn rpc(path: &str) -> Need {
    let found = path.strip_prefix('/').and_then(|p| p.split_once('/')).and_then(|(service, call)| {
        let (_, calls) = RPCS.iter().find(|(name, _)| *name == service)?;
        calls.iter().find(|(name, _)| *name == call)
    });
    Need::Role(found.map_or(Admin, |(_, role)| *role))
}

/// What a route needs; `None` for a path that no route has.
pub fn route(method: &Method, route: Option<&str>) -> Need {
    // What is not there may be said to anybody.
    let Some(route) = route else { return Nothing };
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let found = ROUTES.iter().find(|(m, r, _)| *m == method && *r == route);
    found.map_or(Need::Role(Admin), |(_, _, need)| *need)
}

/// Whether the RPC at a path changes something that is to be noted with the caller's name.
pub fn is_noted(path: &str) -> bool {
    rpc(path) != Need::Role(Read) && !path.starts_with("/mayastor.v1.Registry/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rpc_of_every_served_service_has_a_line_and_every_line_is_an_rpc() {
        let served: BTreeSet<String> = api::RPCS.iter().map(|path| (*path).to_owned()).collect();
        let listed: BTreeSet<String> =
            RPCS.iter().flat_map(|(s, calls)| calls.iter().map(move |(c, _)| format!("/{s}/{c}"))).collect();
        let missing: Vec<_> = served.difference(&listed).collect();
        assert!(missing.is_empty(), "crates/access/src/table.rs does not say what these need: {missing:?}");
        let stale: Vec<_> = listed.difference(&served).collect();
        assert!(stale.is_empty(), "crates/access/src/table.rs names what is not there: {stale:?}");
    }

    #[test]
    fn what_is_not_in_the_table_needs_everything() {
        for path in ["", "/", "/mayastor.v1.Control/Format", "/grpc.reflection.v1.ServerReflection/Info", "x"] {
            assert_eq!(rpc(path), Need::Role(Admin), "{path}");
        }
        assert_eq!(route(&Method::PATCH, Some("/v1/volumes")), Need::Role(Admin));
        assert_eq!(route(&Method::POST, Some("/v1/unheard-of")), Need::Role(Admin));
        assert_eq!(route(&Method::HEAD, Some("/v1/status")), Need::Role(Read));
        assert_eq!(route(&Method::GET, None), Nothing);
    }

    #[test]
    fn only_what_reads_by_its_name_needs_no_more_than_read() {
        for (service, calls) in RPCS {
            for (call, role) in *calls {
                let reads = ["List", "Get", "Watch", "Stat", "Explain", "Inspect"].iter().any(|w| call.starts_with(w));
                assert_eq!(reads, *role == Read, "{service}/{call}");
            }
        }
        for (method, route, need) in ROUTES {
            assert!(*method == "GET" || *need != Need::Role(Read) && *need != Nothing, "{method} {route}");
        }
    }
}
