//! The file by which `kubectl`, `helm` and every client library find a cluster.

use std::{io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{pki::Credential, private_file};

/// Where a cluster is, and who asks.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// The name of the cluster and of the context.
    pub cluster: &'a str,
    /// The API server's address, such as `https://127.0.0.1:6443`.
    pub server: &'a str,
    /// The certificate of the authority that vouches for the server, in PEM.
    pub authority_pem: &'a str,
    /// The name under which the credential is filed.
    pub user: &'a str,
    /// Who asks.
    pub credential: &'a Credential,
}

impl Kubeconfig<'_> {
    /// The file's content: JSON, which is YAML as well.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let context = format!("{}@{}", self.user, self.cluster);
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{ "name": self.cluster, "cluster": {
                "server": self.server,
                "certificate-authority-data": STANDARD.encode(self.authority_pem),
            }}],
            "users": [{ "name": self.user, "user": {
                "client-certificate-data": STANDARD.encode(&self.credential.certificate_pem),
                "client-key-data": STANDARD.encode(&self.credential.key_pem),
            }}],
            "contexts": [{ "name": context, "context": { "cluster": self.cluster, "user": self.user }}],
        })
    }

    /// Writes the file, readable by its owner only.
    ///
    /// # Errors
    ///
    /// As the file system's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        private_file::write(path, format!("{:#}\n", self.to_json()).as_bytes())
    }
}
