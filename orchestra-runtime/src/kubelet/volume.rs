//! A pod's volumes, as directories and files of the node.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection, Volume, VolumeProjection,
};
use orchestra_core::runtime::Mount;

use super::{decide::containers, env, sources::Sources};

/// The mode of directories: they may hold secrets.
const DIR_MODE: u32 = 0o700;
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
    /// The pod's directory on the node.
    pub(super) dir: &'a Path,
}

/// Makes a pod's volumes; `Err` says which can't be had, and why.
pub(super) fn mount_all(context: Context<'_>) -> Result<(), String> {
    let volumes = context.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        mount(context, volume)
            .map_err(|why| format!("MountVolume.SetUp failed for volume {:?}: {why}", volume.name))?;
    }
    Ok(())
}

/// Where a container sees which volumes.
pub(super) fn mounts(pod: &Pod, container: &Container, dir: &Path) -> Result<Vec<Mount>, String> {
    let volumes: Vec<_> = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).collect();
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let volume = volumes.iter().find(|volume| volume.name == wanted.name);
        let volume = volume.ok_or_else(|| format!("volume {:?} not found", wanted.name))?;
        let mut host_path = match &volume.host_path {
            Some(host) => PathBuf::from(&host.path),
            None => dir.join("volumes").join(&volume.name),
        };
        if let Some(sub_path) = &wanted.sub_path {
            host_path.push(inside(sub_path)?);
            if !host_path.exists() {
                make_dir(&host_path).map_err(|error| error.to_string())?;
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
    } else if volume.empty_dir.is_none() {
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
            env::resource(container, &resource.resource, resource.divisor.as_ref())
        } else {
            continue;
        };
        files.insert(inside(&item.path)?, (bits(item.mode.unwrap_or(mode)), content.into_bytes()));
    }
    Ok(())
}

/// Writes each file whole or not at all; one that is as it should be stays untouched.
fn write(dir: &Path, files: &Files) -> io::Result<()> {
    make_dir(dir)?;
    for (path, (mode, content)) in files {
        let path = dir.join(path);
        if fs::read(&path).is_ok_and(|old| old == *content) {
            continue;
        }
        let parent = path.parent().unwrap_or(dir);
        make_dir(parent)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = parent.join(format!("..{name}.partial"));
        let _ = fs::remove_file(&partial);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(*mode).open(&partial)?;
        io::Write::write_all(&mut file, content)?;
        fs::rename(&partial, &path)?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
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
    use std::path::Path;

    use super::{Files, inside, write};

    #[test]
    fn a_path_that_leaves_its_volume_is_refused() {
        for bad in ["../x", "/etc/passwd", "a/../../b"] {
            assert!(inside(bad).is_err(), "{bad}");
        }
        assert!(inside("a/b").is_ok());
    }

    #[test]
    fn files_are_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        for content in ["one", "two"] {
            let files: Files = [("a/b".into(), (0o600, content.into()))].into();
            write(dir.path(), &files).expect("written");
            let inner = dir.path().join("a");
            assert_eq!(std::fs::read_to_string(inner.join("b")).expect("there"), content);
            assert_eq!(std::fs::read_dir(Path::new(&inner)).expect("there").count(), 1);
        }
    }
}
