//! What holds of any text as a configuration. Shared with the fuzz targets.

use holdoff::config::{self, Loaded};

/// Reads a text, and says whether it was accepted. An accepted one, as it is shown, is accepted again and means the same;
/// of a refused one every error can be printed.
pub fn check(text: &str) -> bool {
    // Files are named in a configuration and read: none that never end.
    if text.contains("/dev/") || text.contains("/proc/") {
        return false;
    }
    match config::parse(text) {
        Ok(loaded) => {
            let shown = loaded.effective.to_string();
            let again = config::parse(&shown).unwrap_or_else(|errors| panic!("{errors}\nshown of\n{text}"));
            assert_eq!(values(&again), values(&loaded), "shown of\n{text}");
            for (again, loaded) in settings(&again).iter().zip(settings(&loaded)) {
                assert_eq!(*again, loaded, "shown of\n{text}");
            }
            true
        }
        Err(errors) => {
            assert!(!errors.errors().is_empty());
            let shown = errors.to_string();
            assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
            false
        }
    }
}

/// The lines without where they come from.
fn values(loaded: &Loaded) -> Vec<String> {
    let shown = loaded.effective.to_string();
    shown.lines().map(|line| line.rsplit_once("  # ").map_or(line, |(value, _)| value).to_owned()).collect()
}

fn settings(loaded: &Loaded) -> Vec<String> {
    let settings = &loaded.settings;
    let mut shown = vec![
        format!("{:?} {:?} {:?}", settings.listen.address, settings.listen.name, settings.listen.clients),
        format!("{:?}", settings.reverse),
        format!("{:?}", settings.admin),
        format!("{:?}", settings.metrics),
        format!("{:?}", settings.log),
        format!("{:?}", settings.egress),
        format!("{:?}", settings.upstream),
        format!("{:?}", settings.limits),
        format!("{:?}", settings.shutdown),
        format!("{:?}", settings.hosts.defaults),
    ];
    shown.extend(settings.hosts.hosts.iter().map(|host| format!("{host:?}")));
    shown
}
