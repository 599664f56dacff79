//! `--subnet`, `--gateway`, `--ip-range` and `--aux-address` of a network.

use std::net::IpAddr;

use ipnet::IpNet;
use slipway_proto::netd::v1::create_network_request::Pool;

/// Finds the subnet that each of the others is in, as docker does: their order does not matter.
pub fn pools(
    subnets: &[String],
    gateways: &[String],
    ranges: &[String],
    reserved: &[String],
) -> Result<Vec<Pool>, String> {
    let mut pools = Vec::new();
    for text in subnets {
        let subnet: IpNet = parse(text, "subnet")?;
        let pool = Pool {
            subnet: text.clone(),
            ..Pool::default()
        };
        pools.push((subnet, pool));
    }
    for text in ranges {
        let range: IpNet = parse(text, "ip-range")?;
        let pool = find(&mut pools, |subnet| subnet.contains(&range), "range", text)?;
        once(&mut pool.ip_range, text, "ip-ranges", &pool.subnet)?;
    }
    for text in gateways {
        let gateway: IpAddr = parse(text, "gateway")?;
        let pool = find(
            &mut pools,
            |subnet| subnet.contains(&gateway),
            "gateway",
            text,
        )?;
        once(&mut pool.gateway, text, "gateways", &pool.subnet)?;
    }
    for text in reserved {
        let (name, address) = text
            .split_once('=')
            .ok_or_else(|| format!("invalid aux-address {text}: write NAME=ADDRESS"))?;
        let own: IpAddr = parse(address, "aux-address")?;
        let pool = find(
            &mut pools,
            |subnet| subnet.contains(&own),
            "aux-address",
            address,
        )?;
        pool.reserved.insert(name.to_owned(), address.to_owned());
    }
    Ok(pools.into_iter().map(|(_, pool)| pool).collect())
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("invalid {what} {text}"))
}

fn find<'a>(
    pools: &'a mut [(IpNet, Pool)],
    has: impl Fn(&IpNet) -> bool,
    what: &str,
    text: &str,
) -> Result<&'a mut Pool, String> {
    let found = pools.iter_mut().find(|(subnet, _)| has(subnet));
    let found = found.map(|(_, pool)| pool);
    found.ok_or_else(|| format!("no matching subnet for {what} {text}: give it by --subnet"))
}

fn once(place: &mut String, text: &str, what: &str, subnet: &str) -> Result<(), String> {
    if !place.is_empty() {
        return Err(format!(
            "subnet {subnet} has two {what}: {place} and {text}"
        ));
    }
    text.clone_into(place);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn each_finds_its_subnet() {
        let made = pools(
            &list(&["10.1.0.0/24", "fd00::/64"]),
            &list(&["fd00::5", "10.1.0.5"]),
            &list(&["fd00::/80"]),
            &list(&["printer=10.1.0.9", "nas=fd00::9"]),
        );
        let [v4, v6] = <[Pool; 2]>::try_from(made.unwrap()).unwrap();
        assert_eq!(
            (v4.gateway.as_str(), v4.ip_range.as_str()),
            ("10.1.0.5", "")
        );
        assert_eq!(
            (v6.gateway.as_str(), v6.ip_range.as_str()),
            ("fd00::5", "fd00::/80")
        );
        assert_eq!(
            (&*v4.reserved["printer"], &*v6.reserved["nas"]),
            ("10.1.0.9", "fd00::9")
        );
    }

    #[test]
    fn what_has_no_subnet_is_refused() {
        let subnet = list(&["10.1.0.0/24"]);
        let refused = |gateways: &[&str], ranges: &[&str], reserved: &[&str]| {
            pools(&subnet, &list(gateways), &list(ranges), &list(reserved)).unwrap_err()
        };
        assert!(refused(&["fd00::1"], &[], &[]).contains("no matching subnet for gateway fd00::1"));
        assert!(refused(&[], &["10.2.0.0/25"], &[]).contains("no matching subnet for range"));
        assert!(refused(&[], &[], &["a=10.2.0.1"]).contains("no matching subnet for aux-address"));
        assert!(refused(&[], &[], &["10.1.0.7"]).contains("NAME=ADDRESS"));
        assert!(refused(&["10.1.0.1", "10.1.0.2"], &[], &[]).contains("two gateways"));
        assert!(refused(&["x"], &[], &[]).contains("invalid gateway x"));
    }
}
