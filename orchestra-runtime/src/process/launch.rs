//! What a process is given to run as a container: pure but for looking at files.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt as _, fs::symlink},
    path::{Component, Path, PathBuf},
};

use orchestra_core::runtime::{ContainerSpec, EnvVar, Error, Mount, Result};

use super::{
    image::{self, DEFAULT_PATH, Image},
    script,
};

/// Names the directory below which mounts appear.
const MOUNT_POINT: &str = "CONTAINER_SANDBOX_MOUNT_POINT";

/// A command line, its environment and its place, ready for a supervisor.
pub(super) struct Launch {
    pub(super) line: Vec<String>,
    pub(super) env: Vec<(Box<str>, Box<str>)>,
    pub(super) working_dir: PathBuf,
}

impl Launch {
    /// Works out how to run `spec`, of `image`, with the files in `root`, at `address`.
    pub(super) fn new(
        spec: &ContainerSpec,
        image: &Image,
        root: &Path,
        hostname: &str,
        address: Option<Ipv4Addr>,
    ) -> Result<Self> {
        refuse(spec)?;
        match image {
            Image::Host => Self::on_the_host(spec, root, hostname, address),
            Image::Directory(_) | Image::Tarball(_) => Self::in_a_root(spec, root, hostname, address),
        }
    }

    /// Among the node's own files, with `root` as the place where it starts and its mounts are linked.
    fn on_the_host(spec: &ContainerSpec, root: &Path, hostname: &str, address: Option<Ipv4Addr>) -> Result<Self> {
        link(root, &spec.mounts)?;
        let search_path = search_path();
        let mut env = vec![
            ("PATH".into(), search_path.as_str().into()),
            ("HOME".into(), root.to_string_lossy().into()),
            ("HOSTNAME".into(), hostname.into()),
            (MOUNT_POINT.into(), root.to_string_lossy().into()),
        ];
        extend(&mut env, spec, address)?;
        let working_dir = spec.working_dir.as_ref().map_or(root.into(), |dir| root.join(&**dir));
        let mut words = spec.command.iter().chain(&spec.args);
        let name = words.next().ok_or_else(|| Error::Invalid("the host image has no program of its own".into()))?;
        let path = env.iter().rev().find(|(name, _)| &**name == "PATH").map_or(search_path.as_str(), |(_, path)| path);
        let program = find(name, path, &working_dir)?;
        let mut line = vec![program];
        line.extend(words.map(|word| String::from(&**word)));
        if !working_dir.is_dir() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::Start { program: name.clone(), source: source.into() });
        }
        wrap_odd_names(&mut line, &mut env)?;
        Ok(Self { line, env, working_dir })
    }

    /// With `root` as its root, which needs no links: mounts are at their places.
    fn in_a_root(spec: &ContainerSpec, root: &Path, hostname: &str, address: Option<Ipv4Addr>) -> Result<Self> {
        let mut env = vec![
            ("PATH".into(), DEFAULT_PATH.into()),
            ("HOME".into(), "/".into()),
            ("HOSTNAME".into(), hostname.into()),
        ];
        extend(&mut env, spec, address)?;
        let line: Vec<String> = spec.command.iter().chain(&spec.args).map(|word| String::from(&**word)).collect();
        if line.is_empty() {
            return Err(Error::Invalid("an image of plain files has no program of its own".into()));
        }
        let mut line = image::enter(root, spec.working_dir.as_deref(), &spec.mounts, &line)?;
        wrap_odd_names(&mut line, &mut env)?;
        Ok(Self { line, env, working_dir: root.into() })
    }
}

/// Adds what every container is told, and what this one asks for.
fn extend(env: &mut Vec<(Box<str>, Box<str>)>, spec: &ContainerSpec, address: Option<Ipv4Addr>) -> Result<()> {
    env.extend(address.map(|address| ("POD_IP".into(), address.to_string().into())));
    env.extend(spec.env.iter().map(|EnvVar { name, value }| (name.clone(), value.clone())));
    if env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
        return Err(Error::Invalid("an environment variable holds a NUL, or its name an equals sign".into()));
    }
    Ok(())
}

/// Where programs are looked for, unless a container says so: where this process looks, and then beside its own program.
fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into());
    match std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        Some(beside) => format!("{own}:{}", beside.display()),
        None => own,
    }
}

/// Shows the node's files below `root`, at the paths the container expects.
///
/// They are links: without root nothing else is to be had, and what they point to keeps its own permissions.
fn link(root: &Path, mounts: &[Mount]) -> Result<()> {
    let mut mounts: Vec<&Mount> = mounts.iter().collect();
    mounts.sort_by_key(|mount| &mount.container_path);
    for mount in mounts {
        let inside = mount.container_path.strip_prefix("/").unwrap_or(&mount.container_path);
        let plain = inside.components().all(|component| matches!(component, Component::Normal(_)));
        if !plain || inside.as_os_str().is_empty() {
            return Err(Error::Invalid(format!("mount path {} is not plain", mount.container_path.display()).into()));
        }
        let link = root.join(inside);
        let parent = link.parent().unwrap_or(root);
        let made = fs::create_dir_all(parent).and_then(|()| symlink(&mount.host_path, &link));
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Error::unavailable(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses what this runtime would have to ignore.
fn refuse(spec: &ContainerSpec) -> Result<()> {
    let (own, own_group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if spec.tty {
        return Err(Error::Invalid("a process container can't have a terminal".into()));
    }
    if spec.non_root && spec.user.map_or(own, |user| user.uid) == 0 {
        return Err(Error::AsRoot { user: "0".into() });
    }
    let Some(user) = spec.user else { return Ok(()) };
    if user.uid != own {
        return Err(Error::Invalid(format!("a process container runs as uid {own}, not {}", user.uid).into()));
    }
    match user.gid {
        Some(gid) if gid != own_group => {
            Err(Error::Invalid(format!("a process container runs as gid {own_group}, not {gid}").into()))
        }
        _ => Ok(()),
    }
}

/// Finds a program as execvp(3) does.
pub(super) fn find(name: &str, path: &str, working_dir: &Path) -> Result<String> {
    let candidates: Vec<PathBuf> = match name.contains('/') {
        true => vec![working_dir.join(name)],
        false => path.split(':').map(|dir| working_dir.join(dir).join(name)).collect(),
    };
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let program = candidates.into_iter().find(is_program).and_then(|path| path.into_os_string().into_string().ok());
    program.ok_or_else(|| Error::Start { program: name.into(), source: "no such program in the path".into() })
}

/// Moves variables that a shell would drop to an `env` before the program.
///
/// Their values show in the process list for the moment before `env` becomes the program.
fn wrap_odd_names(line: &mut Vec<String>, env: &mut Vec<(Box<str>, Box<str>)>) -> Result<()> {
    let (passed, odd): (Vec<_>, Vec<_>) = std::mem::take(env).into_iter().partition(|(name, _)| script::passes(name));
    *env = passed;
    if !odd.is_empty() {
        let mut wrapped = vec![find("env", DEFAULT_PATH, Path::new("/"))?];
        wrapped.extend(odd.into_iter().map(|(name, value)| format!("{name}={value}")));
        wrapped.append(line);
        *line = wrapped;
    }
    Ok(())
}
