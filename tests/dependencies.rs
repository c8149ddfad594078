//! The arrows of the architecture, read from `cargo metadata`.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

const LAYERS: [&str; 4] = ["arqon-overseer", "arqon-rollout", "arqon-schema", "arqon-shadow"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--locked",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Normal dependencies of a workspace member that are on without any feature.
fn defaults(metadata: &Value, package: &str) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|found| found["name"] == package)
        .expect(package);
    let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
    dependencies
        .filter(|dependency| dependency["kind"].is_null() && dependency["optional"] == false)
        .map(|dependency| dependency["name"].as_str().expect("name").to_owned())
        .collect()
}

#[test]
fn no_layer_knows_another_layer_the_bus_axum_or_nats() {
    let metadata = metadata();
    for layer in LAYERS {
        let found = defaults(&metadata, layer);
        assert!(
            found.contains("arqon-message"),
            "{layer} builds on the vocabulary: {found:?}"
        );
        let forbidden =
            LAYERS
                .into_iter()
                .chain(["ron-bus", "axum", "async-nats", "arqon", "tower", "hyper"]);
        for forbidden in forbidden.filter(|name| *name != layer) {
            assert!(!found.contains(forbidden), "{layer} depends on {forbidden}");
        }
    }
}

#[test]
fn the_vocabulary_and_the_bus_know_nobody() {
    let metadata = metadata();
    let ours = LAYERS
        .into_iter()
        .chain(["arqon", "ron-bus", "arqon-message", "axum", "async-nats"]);
    for package in ["arqon-message", "ron-bus"] {
        let found = defaults(&metadata, package);
        for forbidden in ours.clone().filter(|name| *name != package) {
            assert!(!found.contains(forbidden), "{package} depends on {forbidden}");
        }
    }
    // Whether it depends on more is the bus's own affair and tested there; tokio it needs for `sync` alone.
    assert!(defaults(&metadata, "ron-bus").contains("tokio"));
}

#[test]
fn default_features_are_empty() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        if LAYERS.contains(&name) || ["arqon", "arqon-message", "ron-bus"].contains(&name) {
            let default = package["features"]["default"].as_array().map_or(0, Vec::len);
            assert_eq!(default, 0, "{name} has default features");
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_in_every_library_but_the_guest_sdk() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let published = package["publish"]
            .as_array()
            .is_none_or(|registries| !registries.is_empty());
        let manifest =
            std::fs::read_to_string(package["manifest_path"].as_str().expect("path")).expect("manifest");
        if published && name != "arqon-policy" {
            assert!(
                manifest.contains("[lints]\nworkspace = true"),
                "{name} does not inherit the workspace's lints"
            );
        }
    }
}
