//! Our links are nobody else's to configure: systemd-networkd and `NetworkManager` would give them
//! addresses, or take those away that they have.
//!
//! Both read what they are to leave alone from files below `/run`; where there is no such directory
//! there is no such program. The files go with everything else of ours.

use std::fs;
use std::path::{Path, PathBuf};

use crate::settings::Settings;

/// The directories, and what the file of a daemon is called there.
const PLACES: [(&str, &str); 2] =
    [("/run/systemd/network", "05-{}.network"), ("/run/NetworkManager", "conf.d/{}.conf")];

/// Writes the files. What cannot be written is told in the log, and nothing more: most hosts have
/// neither program.
pub(super) fn declare(settings: &Settings) {
    for ((directory, file), text) in files(settings).into_iter().zip(texts(settings)) {
        if !directory.is_dir() {
            continue;
        }
        let below = file.parent().unwrap_or(&directory);
        let written = fs::create_dir_all(below).and_then(|()| fs::write(&file, text));
        if let Err(error) = written {
            let file = file.display();
            tracing::warn!(%file, %error, "others may configure our links: cannot write");
        }
    }
}

/// Removes the files.
pub(super) fn withdraw(settings: &Settings) {
    for (_, file) in files(settings) {
        // Where there is none, there was no such program.
        let _ = fs::remove_file(file);
    }
}

fn files(settings: &Settings) -> [(PathBuf, PathBuf); 2] {
    PLACES.map(|(directory, file)| {
        let directory = Path::new(directory).to_owned();
        let file = directory.join(file.replace("{}", &settings.table));
        (directory, file)
    })
}

/// What is in the files: the names that our links have where no option says otherwise.
fn texts(settings: &Settings) -> [String; 2] {
    let device = Some(settings.default_bridge.device.as_str());
    let device = device.filter(|device| !device.is_empty()).unwrap_or("rnet0");
    let digits = |number| "[0-9a-f]".repeat(number);
    [
        format!(
            "# Made by rnet: these links are its own.\n[Match]\nName={device} br-{} veth{}\n\n\
             [Link]\nUnmanaged=yes\n",
            digits(12),
            digits(7)
        ),
        format!(
            "# Made by rnet: these links are its own.\n[keyfile]\n\
             unmanaged-devices+=interface-name:{device};interface-name:br-{};interface-name:veth{}\n",
            "?".repeat(12),
            "?".repeat(7)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_links_are_named_in_the_words_of_both_programs() {
        let [networkd, manager] = texts(&Settings::default());
        assert!(networkd.contains("Name=rnet0 br-[0-9a-f]") && networkd.contains("Unmanaged=yes"));
        assert!(manager.contains("interface-name:br-????????????;interface-name:veth???????"));
        let [(_, networkd), (_, manager)] = files(&Settings::default());
        assert_eq!(networkd, Path::new("/run/systemd/network/05-rnet.network"));
        assert_eq!(manager, Path::new("/run/NetworkManager/conf.d/rnet.conf"));
    }
}
