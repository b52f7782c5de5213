//! The manifest of an image as registries get it: Docker's form, byte for byte as Docker writes it,
//! so that the same image has the same digest whoever pushes it. A layer in zstd needs OCI's form.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::digest::Digest;
use crate::store::{self, Packed};
use engine_error::{Error, Result};

/// Media types of one form: of manifests, configurations, layers.
type Form = [&'static str; 3];

const DOCKER: Form = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
const OCI: Form = [store::MANIFEST, store::CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip"];
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A manifest about to be pushed.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) media_type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    size: u64,
    digest: Digest,
}

impl Built {
    /// Of a configuration and layers, lowest first.
    pub(super) fn of(config: Digest, config_size: u64, layers: &[Packed]) -> Result<Self> {
        let form = if layers.iter().any(|layer| layer.zstd) { OCI } else { DOCKER };
        let [media_type, config_type, layer_type] = form;
        let layer = |layer: &Packed| Descriptor {
            media_type: if layer.zstd { ZSTD } else { layer_type },
            size: layer.size,
            digest: layer.digest,
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type,
            config: Descriptor { media_type: config_type, size: config_size, digest: config },
            layers: layers.iter().map(layer).collect(),
        };
        let mut bytes = Vec::new();
        let mut writer =
            Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"   "));
        manifest
            .serialize(&mut writer)
            .map_err(|error| Error::internal("cannot write a manifest", error))?;
        Ok(Self { digest: Digest::of(&bytes), bytes, media_type })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_has_the_bytes_and_the_digest_that_docker_gives_it() {
        // As dockerd 28 pushed it.
        let digest = |hex: &str| format!("sha256:{hex}").parse().unwrap();
        let config = digest("8a0ec9d25270860c25d20e4ab60bdb6fba2adda833be793830db5877c0589d66");
        let layer = Packed {
            digest: digest("ea97d3bc99900e61277d65f156c7ef8a9408119ed72e5744860de1ddf4a6935c"),
            size: 1_137_034,
            zstd: false,
        };
        let built = Built::of(config, 898, &[layer]).unwrap();
        assert_eq!(built.bytes.len(), 527);
        let theirs = digest("69f011d72c4129e52fec21bc6812ff4199c040b610c34361dbec1a14b7b2220c");
        assert_eq!(built.digest, theirs);
    }

    #[test]
    fn a_layer_in_zstd_makes_a_manifest_of_oci() {
        let layer = |zstd| Packed { digest: Digest::of(b"x"), size: 1, zstd };
        let built = Built::of(Digest::of(b"c"), 1, &[layer(false), layer(true)]).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&built.bytes).unwrap();
        assert_eq!(built.media_type, store::MANIFEST);
        assert_eq!(value["config"]["mediaType"], store::CONFIG);
        assert_eq!(value["layers"][0]["mediaType"], OCI[2]);
        assert_eq!(value["layers"][1]["mediaType"], ZSTD);
    }
}
