//! A server on a plain distribution: packages installed in a RUN, EXPOSE and what publishes.

use std::fs;

use slipway_tests::{
    Neighbour, Site, eventually,
    fixtures::{self, Upstream},
    installed,
};

const DOCKERFILE: &str = r#"FROM debian:bookworm
ENV SOME_VALUE=some-value
RUN echo "${SOME_VALUE}"
RUN apt-get update && apt-get install -y nginx-light
EXPOSE 80 443
CMD ["nginx","-g","daemon off;"]
"#;

#[tokio::test]
async fn a_server_is_installed_and_published() {
    if fixtures::images().is_none() || !installed(&["slirp4netns", "curl"]) {
        return;
    }
    let mut site = Site::roomy();
    site.connect();
    let upstream = Upstream::of_images(&site, 5001).await;
    site.configure("registry.toml", &upstream.as_docker_io("5m"));
    site.start_services().await;
    let neighbour = Neighbour::of(&mut site);
    let context = site.path("server");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();

    let built = site.ctl(&["build", "-t", "server", context.to_str().unwrap()]);
    assert_eq!(built.code, 0, "{}", built.err);
    assert!(
        built
            .err
            .lines()
            .any(|l| l.trim_end().ends_with(" some-value")),
        "{}",
        built.err
    );
    let format = "{{json .Config.ExposedPorts}} {{json .Config.Cmd}}";
    let config = site.ctl(&["image", "inspect", "-f", format, "server"]).ok();
    assert_eq!(
        config,
        "{\"443/tcp\":{},\"80/tcp\":{}} [\"nginx\",\"-g\",\"daemon off;\"]\n"
    );

    // EXPOSE alone publishes nothing.
    site.ctl(&["run", "-d", "--name", "quiet", "server"]).ok();
    let inside = ["exec", "quiet", "sh", "-c", "test -s /run/nginx.pid"];
    eventually("nginx runs", async || {
        (site.ctl(&inside).code == 0).then_some(())
    })
    .await;
    assert_eq!(site.fetch("http://127.0.0.1/"), None);
    assert_eq!(
        neighbour.fetch(&format!("http://{}/", neighbour.site_address)),
        None
    );
    let ps = site.ctl(&["ps", "--format", "{{.Names}} {{.Ports}}"]).ok();
    assert_eq!(ps, "quiet 80/tcp, 443/tcp\n");
    // Other containers reach it by its name, published or not.
    let script = "exec 3<>/dev/tcp/quiet/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let page = site
        .ctl(&["run", "--rm", "debian:bookworm", "bash", "-c", script])
        .ok();
    assert!(page.contains("Welcome to nginx!"), "{page}");

    // -p does.
    site.ctl(&["run", "-d", "--name", "web", "-p", "8080:80", "server"])
        .ok();
    let page = eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:8080/")
    })
    .await;
    assert!(page.contains("Welcome to nginx!"), "{page}");
    let url = format!("http://{}:8080/", neighbour.site_address);
    let page = eventually("the page comes to a neighbour", async || {
        neighbour.fetch(&url)
    })
    .await;
    assert!(page.contains("Welcome to nginx!"), "{page}");
    // On this host only.
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "local",
        "-p",
        "127.0.0.1:8081:80",
        "server",
    ])
    .ok();
    eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:8081/")
    })
    .await;
    assert_eq!(
        neighbour.fetch(&format!("http://{}:8081/", neighbour.site_address)),
        None
    );
    // A port taken already.
    let error = site
        .ctl(&["run", "-d", "-p", "8080:80", "server"])
        .error(125);
    assert!(error.contains("port is already allocated"), "{error}");
    // Graceful: nginx says SIGQUIT or SIGTERM, it has 10 seconds.
    assert_eq!(
        site.ctl(&["stop", "quiet", "web", "local"]).ok(),
        "quiet\nweb\nlocal\n"
    );
    assert_eq!(site.ctl(&["wait", "web"]).ok(), "0\n");
    assert_eq!(site.fetch("http://127.0.0.1:8080/"), None);
}
