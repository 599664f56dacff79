//! The build cache on its way: `--cache-to` and `--cache-from`.

use super::*;

#[tokio::test]
async fn records_travel_by_registry_image_and_folder() {
    let site = site().await;
    write(
        &site.path("context"),
        &[
            (
                "Dockerfile",
                "FROM busybox AS made\nRUN echo made > /made\nFROM busybox\nRUN echo one > /one\nCOPY a /a\nCOPY --from=made /made /made\n",
            ),
            ("a", "1"),
        ],
    );
    let folder = site.path("cache").display().to_string();
    let local = format!("type=local,dest={folder},mode=max");
    let first = built(
        &site,
        "app",
        &[
            "--cache-to",
            "type=registry,ref=localhost:5000/cache:1,mode=max,compression=zstd",
            "--cache-to",
            &local,
            "--cache-to",
            "type=inline",
        ],
    );
    assert_eq!(cached(&first), (0, 4));
    let id = site.inspect("app", "{{.Id}}");
    let forget = || {
        site.ctl(&["builder", "prune", "-af"]).ok();
    };
    let again = |from: &str| {
        let said = built(&site, "again", &["--cache-from", from]);
        assert!(!said.err.contains("CacheImport"), "{}", said.err);
        cached(&said)
    };
    forget();
    assert_eq!(again("localhost:5000/cache:1"), (4, 4));
    // The records carry their time: the config is the same, but for the records that it carries.
    assert_eq!(shell(&site, "again", "cat /made /one /a"), "made\none\n1");
    // An image's own records lead to its own layers only.
    forget();
    assert_eq!(again("type=registry,ref=app"), (2, 4));
    assert_ne!(site.inspect("again", "{{.Id}}"), id);
    // Nothing of it is here any more: the folder brings the layers.
    for image in ["app", "again", "localhost:5000/cache:1"] {
        site.ctl(&["rmi", "-f", image]).ok();
    }
    forget();
    assert_eq!(again(&format!("type=local,src={folder}")), (4, 4));
    assert_eq!(shell(&site, "again", "cat /made /one /a"), "made\none\n1");
    // What was imported belongs to the site's own cache now.
    assert_eq!(cached(&built(&site, "third", &[])), (4, 4));

    // A cache that is not there is told, and no error.
    let said = built(&site, "x", &["--cache-from", "localhost:5000/none"]);
    assert!(
        said.err.contains("failed to import the cache"),
        "{}",
        said.err
    );
    for (option, sentence) in [
        ("--cache-to=type=gha", "type=gha is not supported"),
        (
            "--cache-to=type=inline,mode=max",
            "mode=max is not supported",
        ),
        ("--cache-from=type=s3", "type=s3 is not supported"),
    ] {
        let said = build(&site, "x", &[option]);
        assert!(said.err.contains(sentence), "{option}: {}", said.err);
    }
}
