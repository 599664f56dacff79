//! Which worker does a step: a pure choice between those that could.

use std::cmp::Reverse;

use slipway_image::Platform;

/// A worker that could do a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Which one.
    pub number: usize,
    /// Steps that it does, or that wait for it.
    pub busy: usize,
    /// How many it does at once.
    pub most: usize,
    /// Bytes of the layers below the step that it lacks, as far as is known here.
    pub lacks: u64,
    /// It did the step before this one.
    pub home: bool,
    /// How many of the step's cache mounts it has.
    pub caches: usize,
}

/// The best of them. What a step finds in a cache mount is worth more than anything else, since nobody else
/// has it. A line of steps stays where it is while there is room, since each is upon the last one's files.
/// Anything else goes to who does the least for what he has; between those, to who has most of the files.
pub fn best(candidates: &[Candidate]) -> Option<usize> {
    let load = |c: &Candidate| (c.busy as u64).saturating_mul(1000) / c.most.max(1) as u64;
    let best = candidates.iter().min_by_key(|c| {
        let stays = c.home && c.busy < c.most;
        (
            Reverse(c.caches),
            !stays,
            load(c),
            !c.home,
            c.lacks,
            c.number,
        )
    });
    best.map(|c| c.number)
}

/// Whether a worker of these platforms can run programs of `wanted`.
pub fn can_run(platforms: &[Platform], wanted: &Platform) -> bool {
    platforms.iter().any(|own| {
        let older = || match (number(&own.variant), number(&wanted.variant)) {
            // Later variants of one architecture run what earlier ones do: arm's v7 also v6, amd64's v3 also v2.
            (Some(own), Some(wanted)) => wanted <= own,
            _ => false,
        };
        own.satisfies(wanted)
            || (own.os == wanted.os && own.architecture == wanted.architecture && older())
    })
}

fn number(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: usize, busy: usize) -> Candidate {
        Candidate {
            number,
            busy,
            most: 4,
            ..Candidate::default()
        }
    }

    #[test]
    fn a_line_of_steps_stays_and_others_spread() {
        assert_eq!(best(&[]), None);
        // Nobody does anything: who has the files.
        let far = Candidate {
            lacks: 9,
            ..of(0, 0)
        };
        assert_eq!(best(&[far.clone(), of(1, 0)]), Some(1));
        // Others at once: who does less, though he must fetch.
        assert_eq!(best(&[far, of(1, 1)]), Some(0));
        let home = |busy| Candidate {
            home: true,
            ..of(0, busy)
        };
        assert_eq!(best(&[home(3), of(1, 0)]), Some(0));
        assert_eq!(best(&[home(4), of(1, 0)]), Some(1), "there is no room");
        assert_eq!(best(&[of(1, 4), home(4)]), Some(0), "nowhere is room");
        let larger = Candidate {
            most: 16,
            ..of(1, 2)
        };
        assert_eq!(best(&[of(0, 1), larger]), Some(1));
        let cache = Candidate {
            caches: 1,
            ..of(1, 4)
        };
        assert_eq!(best(&[home(0), cache]), Some(1));
    }

    #[test]
    fn programs_run_where_their_platform_is() {
        let all = |names: &[&str]| -> Vec<Platform> {
            names.iter().map(|n| n.parse().unwrap()).collect()
        };
        let wanted = |name: &str| name.parse::<Platform>().unwrap();
        let amd64 = all(&["linux/amd64/v3", "linux/386"]);
        for (name, runs) in [
            ("linux/amd64", true),
            ("linux/amd64/v2", true),
            ("linux/amd64/v4", false),
            ("linux/386", true),
            ("linux/arm64", false),
        ] {
            assert_eq!(can_run(&amd64, &wanted(name)), runs, "{name}");
        }
        let arm = all(&["linux/arm/v7"]);
        assert!(can_run(&arm, &wanted("linux/arm/v6")));
        assert!(!can_run(&arm, &wanted("linux/arm64")));
    }
}
