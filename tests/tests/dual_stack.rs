//! Networks with both versions of IP, as people make and see them.

use slipway_tests::Site;

#[tokio::test]
async fn what_was_asked_for_is_what_is_there_and_shown() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let subnets = ["--subnet", "10.77.0.0/24", "--subnet", "fd77::/64"];
    let others = ["--gateway", "fd77::5", "--aux-address", "nas=fd77::2"];
    let create = [
        ["network", "create", "--ipv6"].as_slice(),
        &subnets,
        &others,
        &["six"],
    ];
    site.ctl(&create.concat()).ok();
    let shown = site.ctl(&[
        "network",
        "inspect",
        "-f",
        "{{.EnableIPv6}} {{json .IPAM.Config}}",
        "six",
    ]);
    assert_eq!(
        shown.ok(),
        "true [{\"Gateway\":\"10.77.0.1\",\"Subnet\":\"10.77.0.0/24\"},\
         {\"AuxiliaryAddresses\":{\"nas\":\"fd77::2\"},\"Gateway\":\"fd77::5\",\"Subnet\":\"fd77::/64\"}]\n"
    );

    let web = ["--network", "six", "--ip6", "fd77::99", "-p", "3000:80"];
    site.sleeper("web", &web);
    let own = "{{with .NetworkSettings.Networks.six}}{{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} \
               {{.IPv6Gateway}} {{.IPAMConfig.IPv6Address}}{{end}}";
    assert_eq!(
        site.inspect("web", own).trim(),
        "fd77::99/64 fd77::5 fd77::99"
    );
    let hosts = site
        .ctl(&["exec", "web", "/bin/busybox", "cat", "/etc/hosts"])
        .ok();
    assert!(hosts.contains("\nfd77::99\t"), "{hosts}");
    // The gateway and what is kept back are nobody's.
    let first = "/bin/busybox grep eth0 /proc/net/if_inet6 | /bin/busybox grep -v ^fe80 | /bin/busybox cut -c1-32";
    let first = site.sh(&["--network", "six"], first).ok();
    assert_eq!(first, "fd770000000000000000000000000001\n");
    let reached = "/bin/busybox ping -6 -c 1 -w 5 web";
    let said = site.sh(&["--network", "six"], reached).ok();
    assert!(said.contains("fd77::99"), "{said}");

    site.sleeper("four", &["-p", "3001:80"]);
    let ports = |name: &str| site.ctl(&["port", name]).ok();
    assert_eq!(
        ports("web"),
        "80/tcp -> 0.0.0.0:3000\n80/tcp -> [::]:3000\n"
    );
    assert_eq!(ports("four"), "80/tcp -> 0.0.0.0:3001\n");
    let off = "/bin/busybox grep -c eth0 /proc/net/if_inet6";
    assert_eq!(site.sh(&[], off).out, "0\n", "no IPv6 without --ipv6");

    let wrong = site.ctl(&["network", "create", "--gateway", "fd78::1", "other"]);
    assert!(
        wrong
            .error(1)
            .contains("no matching subnet for gateway fd78::1")
    );
}
