//! A pod's volumes, as directories and files of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::{
    api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection, Volume, VolumeProjection},
    apimachinery::pkg::api::resource::Quantity,
};
use orchestra_core::{rng::Entropy, runtime::Mount};

use super::{decide::containers, env, sources::Sources};

/// Where the pods of a node have their directories.
const PODS_DIR: &str = "pods";
/// The mode of a pod's own directory: its volumes may hold secrets.
const POD_DIR_MODE: u32 = 0o700;
/// The mode of a volume's directories, which containers read as whoever they run as.
const DIR_MODE: u32 = 0o755;
/// The mode of a volume that containers write to as whoever they run as.
const SHARED_DIR_MODE: u32 = 0o777;
/// The link to the directory of a volume's present files; replaced in one step.
const DATA: &str = "..data";
/// The mode of files, unless the pod says otherwise.
const FILE_MODE: i32 = 0o644;

/// A file of a volume: its path inside, mode and content.
type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// What volumes are made from.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) pod: &'a Pod,
    pub(super) sources: &'a Sources,
    pub(super) pod_ip: &'a str,
    pub(super) host_ip: &'a str,
    /// What the node has.
    pub(super) capacity: &'a BTreeMap<String, Quantity>,
    /// The pod's directory on the node.
    pub(super) dir: &'a Path,
}

/// Where a node keeps the volumes of its pods.
#[derive(Debug)]
pub(super) enum RootDir {
    /// For this kubelet and the next one.
    Given(PathBuf),
    /// For this kubelet alone: made when it is first needed, and removed with it.
    Own(PathBuf),
}

impl RootDir {
    /// A directory that no other kubelet has, even of a node of the same name and with the same seed.
    pub(super) fn own(node_name: &str) -> Self {
        let unique = Entropy::from_os().next_u64();
        Self::Own(std::env::temp_dir().join(format!("orchestra-{node_name}-{unique:016x}")))
    }

    pub(super) fn path(&self) -> &Path {
        let (Self::Given(path) | Self::Own(path)) = self;
        path
    }
}

impl Drop for RootDir {
    fn drop(&mut self) {
        if let Self::Own(path) = self
            && let Err(error) = unmount_all(path)
        {
            tracing::warn!(dir = %path.display(), %error, "volumes were not removed");
        }
    }
}

/// Where a pod's volumes are kept.
pub(super) fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join(PODS_DIR).join(uid)
}

/// The uids of the pods that have volumes on the node.
pub(super) fn pods(root: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(root.join(PODS_DIR)) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Makes a pod's volumes; `Err` says which can't be had, and why.
pub(super) fn mount_all(context: Context<'_>) -> Result<(), String> {
    make_dir(context.dir, POD_DIR_MODE).map_err(|error| error.to_string())?;
    let volumes = context.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        mount(context, volume)
            .map_err(|why| format!("MountVolume.SetUp failed for volume {:?}: {why}", volume.name))?;
    }
    Ok(())
}

/// Where a container sees which volumes; `values` are its environment, for paths that name a variable.
pub(super) fn mounts(
    pod: &Pod,
    container: &Container,
    dir: &Path,
    values: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let volumes: Vec<_> = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).collect();
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let volume = volumes.iter().find(|volume| volume.name == wanted.name);
        let volume = volume.ok_or_else(|| format!("volume {:?} not found", wanted.name))?;
        let mut host_path = match &volume.host_path {
            Some(host) => PathBuf::from(&host.path),
            None => dir.join("volumes").join(&volume.name),
        };
        let expanded = wanted.sub_path_expr.as_deref().map(|path| env::expand(path, values));
        if let Some(sub_path) = expanded.as_ref().or(wanted.sub_path.as_ref()).filter(|path| !path.is_empty()) {
            host_path.push(inside(sub_path)?);
            if !host_path.exists() {
                make_dir(&host_path, SHARED_DIR_MODE).map_err(|error| error.to_string())?;
            }
        }
        let read_only = wanted.read_only.unwrap_or(false);
        mounts.push(Mount { host_path, container_path: wanted.mount_path.clone().into(), read_only });
    }
    Ok(mounts)
}

/// Removes what [`mount_all`] made.
pub(super) fn unmount_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn mount(context: Context<'_>, volume: &Volume) -> Result<(), String> {
    let dir = context.dir.join("volumes").join(&volume.name);
    if let Some(host) = &volume.host_path {
        return host_path(Path::new(&host.path), host.type_.as_deref().unwrap_or_default());
    }
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let data = context.sources.config_maps.get(&source.name);
        let mode = source.default_mode.unwrap_or(FILE_MODE);
        select(&mut files, data, ("configmap", &source.name), source.items.as_deref(), mode, source.optional)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(FILE_MODE);
        let data = context.sources.secrets.get(name);
        select(&mut files, data, ("secret", name), source.items.as_deref(), mode, source.optional)?;
    } else if let Some(source) = &volume.downward_api {
        downward(&mut files, context, source.items.as_deref(), source.default_mode.unwrap_or(FILE_MODE))?;
    } else if let Some(source) = &volume.projected {
        for part in source.sources.iter().flatten() {
            project(&mut files, context, part, source.default_mode.unwrap_or(FILE_MODE))?;
        }
    } else if volume.empty_dir.is_some() {
        return make_dir(&dir, SHARED_DIR_MODE).map_err(|error| error.to_string());
    } else {
        return Err("this kind of volume is not supported".into());
    }
    write(&dir, &files).map_err(|error| error.to_string())
}

fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    let made = match kind {
        "DirectoryOrCreate" => fs::create_dir_all(path),
        "FileOrCreate" => fs::OpenOptions::new().create(true).append(true).open(path).map(drop),
        _ => Ok(()),
    };
    made.map_err(|error| error.to_string())?;
    let fits = match kind {
        "Directory" | "DirectoryOrCreate" => path.is_dir(),
        "File" | "FileOrCreate" => path.is_file(),
        _ => path.exists(),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {} is not what was asked for", path.display())) }
}

fn project(files: &mut Files, context: Context<'_>, part: &VolumeProjection, mode: i32) -> Result<(), String> {
    if let Some(source) = &part.config_map {
        let data = context.sources.config_maps.get(&source.name);
        select(files, data, ("configmap", &source.name), source.items.as_deref(), mode, source.optional)?;
    }
    if let Some(SecretProjection { items, name, optional }) = &part.secret {
        let data = context.sources.secrets.get(name);
        select(files, data, ("secret", name), items.as_deref(), mode, *optional)?;
    }
    if let Some(source) = &part.downward_api {
        downward(files, context, source.items.as_deref(), mode)?;
    }
    if part.service_account_token.is_some() || part.cluster_trust_bundle.is_some() {
        return Err("this projected source is not supported".into());
    }
    Ok(())
}

/// Adds the chosen keys of a config map or secret.
fn select(
    files: &mut Files,
    data: Option<&BTreeMap<String, Vec<u8>>>,
    (what, name): (&str, &str),
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(data) = data else {
        return if optional { Ok(()) } else { Err(format!("{what} {name:?} not found")) };
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in data {
            files.insert(inside(key)?, (bits(mode), value.clone()));
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                files.insert(inside(&item.path)?, (bits(item.mode.unwrap_or(mode)), value.clone()));
            }
            None if optional => {}
            None => return Err(format!("{what} {name:?} references non-existent key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    files: &mut Files,
    context: Context<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let content = if let Some(field) = &item.field_ref {
            env::field(context.pod, &field.field_path, context.pod_ip, context.host_ip)?
        } else if let Some(resource) = &item.resource_field_ref {
            let named = resource.container_name.as_deref().unwrap_or_default();
            let mut all = context.pod.spec.iter().flat_map(containers).map(|(_, container)| container);
            let container = all.find(|container| container.name == named);
            let container = container.ok_or_else(|| format!("container {named:?} not found"))?;
            env::resource(container, &resource.resource, resource.divisor.as_ref(), context.capacity)
        } else {
            continue;
        };
        files.insert(inside(&item.path)?, (bits(item.mode.unwrap_or(mode)), content.into_bytes()));
    }
    Ok(())
}

/// Brings a volume's files into place as Kubernetes does: a new directory, to which one link is turned in one step. A
/// reader sees all of the old files or all of the new ones; what is as it should be stays untouched.
fn write(dir: &Path, files: &Files) -> io::Result<()> {
    make_dir(dir, DIR_MODE)?;
    let current = fs::read_link(dir.join(DATA)).ok();
    if current.as_ref().is_some_and(|current| holds(&dir.join(current), files)) {
        return Ok(());
    }
    let number = |name: &Path| name.to_str().and_then(|name| name.trim_start_matches('.').parse::<u64>().ok());
    let next = format!("..{}", current.as_deref().and_then(number).map_or(0, |number| number + 1));
    let fresh = dir.join(&next);
    unmount_all(&fresh)?;
    make_dir(&fresh, DIR_MODE)?;
    for (path, (mode, content)) in files {
        let path = fresh.join(path);
        make_dir(path.parent().unwrap_or(&fresh), DIR_MODE)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut file, content)?;
        file.set_permissions(fs::Permissions::from_mode(*mode))?;
    }
    let turned = dir.join(format!("{DATA}.new"));
    let _absent = fs::remove_file(&turned);
    symlink(&next, &turned)?;
    fs::rename(&turned, dir.join(DATA))?;
    link_names(dir, files)?;
    current.map_or(Ok(()), |current| unmount_all(&dir.join(current)))
}

/// Makes the names that containers see, each a link into the present files, and removes those that are gone.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let names: BTreeSet<_> = files.keys().filter_map(|path| path.components().next()).collect();
    for name in &names {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let own = name.to_string_lossy().starts_with("..");
        if !own && !names.iter().any(|kept| kept.as_os_str() == name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a directory holds exactly these files.
fn holds(dir: &Path, files: &Files) -> bool {
    let is_there = |(path, (mode, content)): (&PathBuf, &(u32, Vec<u8>))| {
        let path = dir.join(path);
        fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == *mode)
            && fs::read(&path).is_ok_and(|old| old == *content)
    };
    count(dir).is_ok_and(|count| count == files.len()) && files.iter().all(is_there)
}

/// How many files there are below a directory.
fn count(dir: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

/// Makes a directory, if there is none, and those above it; of this mode, whatever the process's mask.
pub(super) fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// A path that stays where it is put.
fn inside(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if stays { Ok(path) } else { Err(format!("path {:?} leaves its volume", path.display().to_string())) }
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{Files, inside, write};

    #[test]
    fn a_path_that_leaves_its_volume_is_refused() {
        for bad in ["../x", "/etc/passwd", "a/../../b"] {
            assert!(inside(bad).is_err(), "{bad}");
        }
        assert!(inside("a/b").is_ok());
    }

    #[test]
    fn files_are_replaced_all_at_once_and_what_is_gone_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let files = |content: &str, extra: bool| -> Files {
            let mut files: Files = [("a/b".into(), (0o640, content.into()))].into();
            files.extend(extra.then(|| ("c".into(), (0o666, content.into()))));
            files
        };
        write(dir, &files("one", true)).expect("written");
        let before = std::fs::read_link(dir.join("..data")).expect("a link");
        write(dir, &files("one", true)).expect("nothing to write");
        assert_eq!(std::fs::read_link(dir.join("..data")).expect("a link"), before, "what is right stays");
        assert_eq!(std::fs::metadata(dir.join("c")).expect("there").permissions().mode() & 0o777, 0o666);
        write(dir, &files("two", false)).expect("written");
        assert_eq!(std::fs::read_to_string(dir.join("a/b")).expect("there"), "two");
        assert!(!dir.join("c").exists());
        assert_eq!(std::fs::read_dir(dir).expect("there").count(), 3, "the files, the link to them, and a name");
    }
}
