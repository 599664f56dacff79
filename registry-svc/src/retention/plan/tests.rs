use super::{
    super::content::{Blob, Part},
    *,
};

const DAY: u64 = 24 * 3600 * 1000;
const NOW: u64 = 1000 * DAY;

fn rules(text: &str) -> Rules {
    let file: crate::config::RegistryFile = toml::from_str(text).unwrap();
    Rules::check(file.retention).unwrap()
}

/// A site in the making; days count back from now.
#[derive(Default)]
struct Site(Content);

impl Site {
    fn blob(&mut self, disk: u64) -> usize {
        self.0.blobs.push(Blob {
            disk,
            holders: 0,
            parts: Vec::new(),
        });
        self.0.blobs.len() - 1
    }

    fn manifest(&mut self, repository: &str, origin: Origin, days: u64, blobs: &[usize]) -> usize {
        for blob in blobs {
            self.0.blobs[*blob].holders += 1;
        }
        let number = self.0.manifests.len();
        self.0.manifests.push(Manifest {
            repository: Repository::from_key(repository).unwrap(),
            digest: Digest::of(number.to_string()),
            origin,
            stored: NOW - days * DAY,
            used: 0,
            by_digest: false,
            tags: Vec::new(),
            children: Vec::new(),
            parents: 0,
            has_subject: false,
            referrers: Vec::new(),
            blobs: blobs.to_vec(),
        });
        number
    }

    fn mirrored(&mut self, days: u64, blobs: &[usize]) -> usize {
        let number = self.manifest("ghcr.io/org/app", Origin::Upstream, days, blobs);
        let tag = (
            Tag::parse(&format!("m{number}")).unwrap(),
            Origin::Upstream,
            0,
        );
        self.0.manifests[number].tags.push(tag);
        number
    }

    fn own(&mut self, tag: &str, days: u64) -> usize {
        let blob = self.blob(10);
        let number = self.manifest("docker.io/team/app", Origin::Local, days, &[blob]);
        self.tag(number, tag, days);
        number
    }

    fn tag(&mut self, number: usize, tag: &str, days: u64) {
        let tag = (Tag::parse(tag).unwrap(), Origin::Local, NOW - days * DAY);
        self.0.manifests[number].tags.push(tag);
    }

    fn index_of(&mut self, parent: usize, child: usize) {
        self.0.manifests[parent].children.push(child);
        self.0.manifests[child].parents += 1;
        self.0.manifests[child].tags.clear();
    }

    fn about(&mut self, subject: usize, referrer: usize) {
        self.0.manifests[subject].referrers.push(referrer);
        self.0.manifests[referrer].has_subject = true;
        self.0.manifests[referrer].tags.clear();
    }

    fn used(&mut self, number: usize, days: u64) {
        self.0.manifests[number].used = NOW - days * DAY;
    }

    fn plan(&self, text: &str) -> Plan {
        plan(&self.0, &rules(text), NOW)
    }

    /// Numbers of the manifests that go.
    fn gone(&self, text: &str) -> Vec<usize> {
        let plan = self.plan(text);
        let number = |step: &Step| {
            let mut all = self.0.manifests.iter();
            all.position(|m| m.digest == step.digest).unwrap()
        };
        plan.steps
            .iter()
            .filter(|s| s.manifest)
            .map(number)
            .collect()
    }

    fn untagged(&self, text: &str) -> Vec<String> {
        let steps = self.plan(text).steps;
        let mut tags: Vec<_> = steps
            .iter()
            .flat_map(|s| &s.tags)
            .map(|(t, _)| t.to_string())
            .collect();
        tags.sort();
        tags
    }
}

const OWN: &str = "[[retention]]\nof = 'own'\n";
const MIRRORED: &str = "[[retention]]\nof = 'mirrored'\n";

#[test]
fn a_tag_stays_that_its_place_or_its_age_keeps() {
    let mut site = Site::default();
    for (tag, days) in [
        ("pr-1", 9),
        ("pr-2", 8),
        ("pr-3", 7),
        ("v1", 90),
        ("latest", 90),
    ] {
        site.own(tag, days);
    }
    let gone = |rest: &str| site.untagged(&format!("{OWN}{rest}"));
    assert_eq!(gone("tags = 'pr-*'\nkeep = 1"), ["pr-1", "pr-2"]);
    assert_eq!(gone("tags = 'pr-*'\nkeep = 1\nmax_age = '8d'"), ["pr-1"]);
    assert_eq!(
        gone("tags = 'pr-*'\nmax_age = '1d'"),
        ["pr-1", "pr-2", "pr-3"]
    );
    assert_eq!(gone("keep = 3"), ["latest", "v1"]);
    assert_eq!(gone("keep = 3\nprotect = ['latest']"), ["v1"]);
    // The first rule that is about a tag decides; the others are left alone.
    let two = "tags = 'v*'\nkeep = 1\n[[retention]]\nof = 'own'\nmax_age = '10d'";
    assert_eq!(gone(two), ["latest"]);
    assert_eq!(
        site.untagged(&format!("{OWN}prefix = 'other/'\nkeep = 1")),
        [""; 0]
    );
    let plan = site.plan(&format!("{OWN}tags = 'pr-*'\nkeep = 2\nmax_age = '2d'"));
    assert_eq!(plan.freed(), 10);
    let why = "tagged 9 days ago, max_age is 2 days, not among the newest 2 of pr-*";
    assert_eq!(plan.steps[0].why, why);
}

#[test]
fn a_manifest_goes_with_the_last_of_its_names_only() {
    let mut site = Site::default();
    let both = site.own("old", 50);
    site.tag(both, "new", 1);
    let (index, child) = (site.own("index", 1), site.own("child", 50));
    site.index_of(index, child);
    site.tag(child, "child", 50);
    let rule = format!("{OWN}max_age = '10d'");
    assert_eq!(site.untagged(&rule), ["child", "old"]);
    assert_eq!(site.gone(&rule), [0; 0]);
    // With its index it goes, and is counted.
    let all = format!("{OWN}max_age = '12h'");
    assert_eq!(site.gone(&all), [both, index, child]);
    assert_eq!(site.plan(&all).freed(), 30);
}

#[test]
fn untagged_content_goes_after_its_time_unless_something_here_needs_it() {
    let mut site = Site::default();
    let mut bare = || {
        let number = site.own("x", 20);
        site.0.manifests[number].tags.clear();
        number
    };
    let (dangling, signature, child) = (bare(), bare(), bare());
    let image = site.own("v1", 20);
    site.about(image, signature);
    site.index_of(image, child);
    let rule = format!("{OWN}untagged = '10d'");
    assert_eq!(site.gone(&rule), [dangling]);
    assert_eq!(site.gone(&format!("{OWN}untagged = '30d'")), [0; 0]);
    // What is about an image stays when that goes, or goes with it.
    let rule = format!("{OWN}max_age = '10d'\n");
    assert_eq!(site.gone(&rule), [image]);
    let rule = format!("{rule}delete_referrers = true");
    assert_eq!(site.gone(&rule), [image, signature]);
}

#[test]
fn mirrored_content_goes_by_its_age_and_by_its_last_use() {
    let mut site = Site::default();
    let (old, used, fresh) = (
        site.mirrored(40, &[]),
        site.mirrored(40, &[]),
        site.mirrored(2, &[]),
    );
    site.used(used, 3);
    let own = site.mirrored(40, &[]);
    site.tag(own, "mine", 40);
    site.own("own", 40);
    let _ = fresh;
    assert_eq!(
        site.gone(&format!("{MIRRORED}max_age = '30d'")),
        [old, used]
    );
    assert_eq!(site.gone(&format!("{MIRRORED}unused = '30d'")), [old]);
    let protect = format!("{MIRRORED}max_age = '30d'\nprotect = ['m0']");
    assert_eq!(site.gone(&protect), [used]);
    // Whoever pulls one of its platforms uses an index.
    let child = site.mirrored(40, &[]);
    site.index_of(old, child);
    site.used(child, 1);
    assert_eq!(site.gone(&format!("{MIRRORED}unused = '30d'")), [0; 0]);
    // In the middle of a pull.
    site.0.manifests[used].used = NOW - 1000;
    assert_eq!(site.gone(&format!("{MIRRORED}max_age = '30d'")), [old]);
}

#[test]
fn a_budget_counts_what_really_becomes_free() {
    let mut site = Site::default();
    let (base, own) = (site.blob(100), site.blob(1000));
    // An own image has this one, too.
    site.manifest("docker.io/team/app", Origin::Local, 1, &[own]);
    let layers: Vec<usize> = [10, 20, 30]
        .into_iter()
        .map(|size| site.blob(size))
        .collect();
    let images: Vec<usize> = [30, 20, 10]
        .into_iter()
        .zip(layers)
        .map(|(days, layer)| site.mirrored(days, &[base, own, layer]))
        .collect();
    let budget = |size: u64| format!("{MIRRORED}max_size = '{size}'");
    assert_eq!(site.gone(&budget(160)), [0; 0]);
    assert_eq!(site.gone(&budget(159)), images[..1]);
    assert_eq!(site.gone(&budget(130)), images[..2]);
    let all = site.plan(&budget(129));
    assert_eq!(
        all.steps.iter().map(|s| s.freed).collect::<Vec<_>>(),
        [10, 20, 130]
    );
    assert_eq!(
        all.steps[1].why,
        "mirrored content takes 150 bytes, max_size is 129"
    );
    // What was pulled longest ago is the first.
    site.used(images[0], 1);
    assert_eq!(site.gone(&budget(159)), images[1..2]);
}

#[test]
fn parts_count_once_and_go_with_the_last_blob() {
    let mut site = Site::default();
    site.0.parts.push(Part {
        disk: 500,
        blobs: 2,
    });
    let blobs = [site.blob(1), site.blob(2)];
    for blob in blobs {
        site.0.blobs[blob].parts.push(0);
    }
    site.mirrored(30, &blobs[..1]);
    site.mirrored(20, &blobs[1..]);
    let freed = |size: u64| site.plan(&format!("{MIRRORED}max_size = '{size}'")).freed();
    assert_eq!((freed(503), freed(502), freed(1)), (0, 1, 503));
}

#[test]
fn indexes_that_name_the_same_ones_over_and_over_are_looked_at_once() {
    let mut site = Site::default();
    let levels: Vec<[usize; 2]> = (0..64)
        .map(|_| [site.mirrored(40, &[]), site.mirrored(40, &[])])
        .collect();
    for pair in levels.windows(2) {
        for parent in pair[0] {
            for child in pair[1] {
                site.index_of(parent, child);
            }
        }
    }
    site.used(levels[63][1], 1);
    // 2^64 ways lead to the last one.
    let (done, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let rest = "unused = '30d'";
        let _ = done.send(site.gone(&format!("{MIRRORED}{rest}")));
    });
    let gone = end.recv_timeout(Duration::from_secs(60));
    assert_eq!(gone.expect("it comes to an end"), [0; 0]);
}

#[test]
fn a_referrer_with_tags_of_its_own_is_counted_once() {
    let rule = format!("{OWN}max_age = '10d'\ndelete_referrers = true");
    for signature_first in [false, true] {
        let mut site = Site::default();
        let first = site.own("first", 20);
        let second = site.own("second", 20);
        let (image, signature) = match signature_first {
            true => (second, first),
            false => (first, second),
        };
        site.0.manifests[image].referrers.push(signature);
        site.0.manifests[signature].has_subject = true;
        assert_eq!(site.untagged(&rule), ["first", "second"]);
        assert_eq!(site.gone(&rule), [first, second]);
        assert_eq!(site.plan(&rule).freed(), 20);
        // One of its tags went by the rule, the other one goes with the image.
        site.tag(signature, "young", 1);
        assert_eq!(site.untagged(&rule), ["first", "second", "young"]);
        assert_eq!(site.plan(&rule).freed(), 20);
    }
}

#[test]
fn a_protected_tag_stays_whichever_rule_would_take_it() {
    let mut site = Site::default();
    for tag in ["pr-1", "v1", "latest"] {
        site.own(tag, 90);
    }
    let gone = |text: &str| site.untagged(text);
    let of_tags = format!("{OWN}prefix = 'team/'\nmax_age = '1d'\n");
    assert_eq!(gone(&of_tags), ["latest", "pr-1", "v1"]);
    // By another rule of the same prefix, and by one of a shorter one, which else does not count.
    for prefix in ["team/", ""] {
        let protector =
            format!("{OWN}prefix = '{prefix}'\nuntagged = '7d'\nprotect = ['latest', 'v*']\n");
        assert_eq!(gone(&format!("{of_tags}{protector}")), ["pr-1"], "{prefix}");
        assert_eq!(gone(&format!("{protector}{of_tags}")), ["pr-1"], "{prefix}");
    }
    // Not by one of other repositories, or of other content.
    for other in [
        format!("{OWN}prefix = 'other/'\nkeep = 1\nprotect = ['v*']\n"),
        format!("{MIRRORED}unused = '1d'\nprotect = ['v*']\n"),
    ] {
        assert_eq!(gone(&format!("{of_tags}{other}")), ["latest", "pr-1", "v1"]);
    }
    // Mirrored content likewise.
    let mirrored = site.mirrored(40, &[]);
    let of_org = format!("{MIRRORED}prefix = 'ghcr.io/org/'\nmax_age = '1d'\n");
    assert_eq!(site.gone(&of_org), [mirrored]);
    let protector = format!("{MIRRORED}unused = '900d'\nprotect = ['m?']\n");
    assert_eq!(site.gone(&format!("{of_org}{protector}")), [0; 0]);
}
