//! One step from an API server to something `kubectl` can use: certificates, a listener, a kubeconfig.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::ServerConfig;
use tokio::net::TcpListener;

use orchestra_core::{
    clock::Clock,
    server::{AddressRanges, ApiServer},
};

use crate::{
    dial::TlsNodeDialer,
    kubeconfig::Kubeconfig,
    pki::{self, CertificateAuthority, ClientCertificates, Error, Subject},
    serve::serve,
};

/// The name of a cluster in its kubeconfig.
const CLUSTER: &str = "orchestra";
/// What pods may call the `kubernetes` Service; as Kubernetes has them.
const SERVICE_NAMES: [&str; 4] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// An API server that listens, and whose administrator's kubeconfig is written.
pub struct Published {
    /// The server's address, such as `https://127.0.0.1:6443`.
    pub server: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The administrator's kubeconfig, readable by its owner only.
    pub kubeconfig: PathBuf,
    authority: CertificateAuthority,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Listens at `listen`, with the certificates kept in `dir`, which are made if there are none; writes `dir/kubeconfig`.
///
/// The certificate is good for the names that pods know the server by, too: those of the `kubernetes` Service, and its
/// address in `ranges`.
///
/// # Errors
///
/// [`Error::File`] if a file of `dir` can't be used or the address is taken; others if a certificate can't be made.
pub async fn publish(
    dir: &Path,
    listen: SocketAddr,
    ranges: &AddressRanges,
    clock: &dyn Clock,
) -> Result<Published, Error> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    let authority = CertificateAuthority::load_or_generate(dir, clock)?;
    let (address, service) = (listen.ip().to_string(), ranges.first_address().to_string());
    let names = [&[address.as_str(), service.as_str(), "localhost"], &SERVICE_NAMES[..]].concat();
    let certificate = authority.issue_server(&Subject::component("kube-apiserver"), &names, clock)?;
    let tls = pki::server_config(&certificate, authority.certificate_pem(), ClientCertificates::Optional)?;
    let listener = TcpListener::bind(listen).await.map_err(at(Path::new(&listen.to_string())))?;
    let address = listener.local_addr().map_err(at(dir))?;
    let server = format!("https://{address}");
    let mut published = Published { server, address, kubeconfig: dir.join("kubeconfig"), authority, listener, tls };
    published.kubeconfig = published.write_kubeconfig(&dir.join("kubeconfig"), &Subject::admin(), clock)?;
    Ok(published)
}

impl Published {
    /// Writes a kubeconfig for `subject`, whom the cluster's authority vouches for, and returns its path.
    ///
    /// # Errors
    ///
    /// As [`publish`].
    pub fn write_kubeconfig(&self, path: &Path, subject: &Subject, clock: &dyn Clock) -> Result<PathBuf, Error> {
        let credential = self.authority.issue_client(subject, clock)?;
        let kubeconfig = Kubeconfig {
            cluster: CLUSTER,
            server: &self.server,
            authority_pem: self.authority.certificate_pem(),
            user: &subject.user,
            credential: &credential,
        };
        kubeconfig.write(path).map_err(|source| Error::File { path: path.into(), source })?;
        Ok(path.into())
    }

    /// The line for a shell that makes `kubectl` find the server: `export KUBECONFIG=…`, quoted where the shell needs it.
    #[must_use]
    pub fn export_line(&self) -> String {
        export_line(&self.kubeconfig)
    }

    /// Reaches the kubelets of the cluster, as the API server.
    ///
    /// # Errors
    ///
    /// As [`publish`].
    pub fn node_dialer(&self, clock: &dyn Clock) -> Result<TlsNodeDialer, Error> {
        let credential = self.authority.issue_client(&Subject::component("kube-apiserver"), clock)?;
        Ok(TlsNodeDialer::new(pki::client_config(&credential, self.authority.certificate_pem())?))
    }

    /// The cluster's authority.
    #[must_use]
    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// Serves `api` until dropped.
    pub async fn serve(self, api: ApiServer) -> Infallible {
        serve(self.listener, self.tls, api).await
    }
}

fn export_line(kubeconfig: &Path) -> String {
    let path = kubeconfig.display().to_string();
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+:@%".contains(letter);
    let path = if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) };
    format!("export KUBECONFIG={path}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::export_line;

    #[test]
    fn a_path_is_quoted_where_the_shell_needs_it() {
        for (path, line) in [
            ("/tmp/c/kubeconfig", "export KUBECONFIG=/tmp/c/kubeconfig"),
            ("/tmp/with space/kubeconfig", "export KUBECONFIG='/tmp/with space/kubeconfig'"),
            ("/tmp/it's/$x", r"export KUBECONFIG='/tmp/it'\''s/$x'"),
        ] {
            assert_eq!(export_line(Path::new(path)), line);
        }
    }
}
