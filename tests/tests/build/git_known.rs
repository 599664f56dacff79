//! What builds remember of git repositories: a commit never changes.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use slipway_tests::{Site, installed, ready};

use crate::{
    contexts::allow,
    git::{git, serve_and},
    shell, site, write,
};

#[tokio::test]
async fn a_commit_is_fetched_once() {
    if !ready() || !installed(&["git"]) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let repo = site.path("repo");
    let commit = |name: &str| {
        git(&site, &["add", "-A"]);
        git(&site, &["commit", "-qm", name]);
        git(&site, &["rev-parse", "HEAD"])
    };
    write(&repo, &[("file", "of the module")]);
    git(&site, &["init", "-q"]);
    let module = commit("module");
    fs::rename(repo.join(".git"), site.path("private.git")).unwrap();
    fs::remove_dir_all(&repo).unwrap();
    let modules = "[submodule \"m\"]\n\tpath = m\n\turl = ../private.git\n";
    let dockerfile = "FROM busybox\nCOPY . /all/\n";
    let files = [
        ("Dockerfile", dockerfile),
        (".gitmodules", modules),
        ("run.sh", "1"),
        ("sub/file", "in the folder"),
    ];
    write(&repo, &files);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(repo.join("run.sh"), mode).unwrap();
    std::os::unix::fs::symlink("sub/file", repo.join("link")).unwrap();
    git(&site, &["init", "-q"]);
    git(&site, &["add", "-A"]);
    let link = format!("160000,{module},m");
    git(&site, &["update-index", "--add", "--cacheinfo", &link]);
    git(&site, &["commit", "-qm", "one"]);
    git(&site, &["tag", "-a", "v1", "-m", "the first"]);
    let first = git(&site, &["rev-parse", "HEAD"]);
    let whole = site.path("whole.git");
    std::os::unix::fs::symlink(repo.join(".git"), whole).unwrap();

    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let server = serve_and(&site, move |request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        seen.lock().unwrap().push(body);
    });
    let url = format!("http://{}/whole.git", server.address);
    let token = site.path("token");
    fs::write(&token, "the-token\n").unwrap();
    let secret = format!("id=GIT_AUTH_TOKEN,src={}", token.display());
    let asked = |what: &str| {
        let bodies = bodies.lock().unwrap();
        bodies.iter().filter(|body| body.contains(what)).count()
    };
    // How many packs and lists of references a build asks for.
    let counted = |site: &Site, arguments: &[&str]| {
        let before = (asked("command=fetch"), asked("command=ls-refs"));
        let mut all = vec!["build", "-t", "git", "--secret", &secret];
        all.extend(arguments);
        let said = site.ctl(&all);
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        (
            asked("command=fetch") - before.0,
            asked("command=ls-refs") - before.1,
        )
    };
    let on = |site: &Site, reference: &str| counted(site, &[&format!("{url}{reference}")]);
    assert_eq!(
        on(&site, "#main"),
        (2, 1),
        "the repository and its submodule"
    );
    let look = "cd /all; cat sub/file m/file; readlink link; stat -c %a run.sh";
    let seen = shell(&site, "git", look);
    assert_eq!(seen, "in the folderof the modulesub/file\n755\n");
    assert_eq!(on(&site, "#main"), (0, 1));
    assert_eq!(shell(&site, "git", look), seen);
    assert_eq!(
        on(&site, &format!("#{first}")),
        (0, 0),
        "nobody need ask what it is"
    );
    // A tag is an object of its own.
    assert_eq!((on(&site, "#v1"), on(&site, "#v1")), ((1, 1), (0, 1)));
    let context = site.path("context");
    let add = |site: &Site, options: &str| {
        let text = format!("FROM busybox\nADD {options} /x/\n");
        write(&context, &[("Dockerfile", &text)]);
        counted(site, &[context.to_str().unwrap()])
    };
    assert_eq!(add(&site, &format!("{url}#main")), (0, 1));
    assert_eq!(add(&site, &format!("{url}#main:sub")), (1, 1));
    assert_eq!(add(&site, &format!("{url}#main:sub")), (0, 1));
    let keep = format!("--keep-git-dir {url}#main");
    assert_eq!(add(&site, &keep), (2, 1));
    let of = "cd /x; find .git -type f | sort | xargs sha256sum";
    let kept = shell(&site, "git", of);
    assert!(kept.contains(".git/objects/pack/"), "{kept}");
    site.kill_and_restart("builder").await;
    assert_eq!(add(&site, &keep), (0, 1));
    assert_eq!(shell(&site, "git", of), kept);
    // What is known is for those only whom the server lets in.
    let said = site.ctl(&["build", &format!("{url}#main")]);
    assert!(said.code != 0 && said.err.contains("401"), "{}", said.err);
    // What is not there any more is fetched.
    fs::remove_dir_all(site.path("state/builder/content/sha256")).unwrap();
    assert_eq!(on(&site, "#main"), (2, 1));
    assert_eq!(shell(&site, "git", look), seen);
    fs::write(repo.join("sub/file"), "changed").unwrap();
    git(&site, &["add", "sub/file"]);
    git(&site, &["commit", "-qm", "two"]);
    assert_eq!(on(&site, "#main"), (1, 1), "the submodule is as it was");
    let changed = seen.replace("in the folder", "changed");
    assert_eq!(shell(&site, "git", look), changed);
}
