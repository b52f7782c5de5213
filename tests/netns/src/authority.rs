//! A certificate authority of a test, made by `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority with its files in a directory that others own.
#[derive(Clone, Debug)]
pub struct Authority(PathBuf);

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM (PKCS 8).
    pub key: PathBuf,
}

impl Authority {
    /// A new authority that keeps its files in a directory, which is made.
    pub fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let authority = Self(directory.to_owned());
        authority.key("ca");
        let request = "req -x509 -new -key ca.key -subj /CN=authority -days 2 -out ca.pem";
        authority.openssl(request);
        authority
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// Certifies that somebody has a name and addresses, as a server and as a client.
    pub fn certify(&self, name: &str, addresses: &[&str]) -> Certificate {
        self.certify_for(2, name, addresses)
    }

    /// The same with a certificate that is no longer valid.
    pub fn certify_too_late(&self, name: &str, addresses: &[&str]) -> Certificate {
        self.certify_for(-1, name, addresses)
    }

    fn certify_for(&self, days: i32, name: &str, addresses: &[&str]) -> Certificate {
        let mut names = vec![format!("DNS:{name}")];
        names.extend(addresses.iter().map(|address| format!("IP:{address}")));
        let extensions =
            format!("subjectAltName={}\nextendedKeyUsage=serverAuth,clientAuth\n", names.join(","));
        fs::write(self.0.join(format!("{name}.ext")), extensions).unwrap();
        self.key(name);
        self.openssl(&format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
             -extfile {name}.ext -out {name}.pem"
        ));
        let file = |kind: &str| self.0.join(format!("{name}.{kind}"));
        Certificate { certificate: file("pem"), key: file("key") }
    }

    fn key(&self, name: &str) {
        let curve = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";
        self.openssl(&format!("{curve} -out {name}.key"));
    }

    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(words.split(' ')).current_dir(&self.0).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words}: {error}");
    }
}
