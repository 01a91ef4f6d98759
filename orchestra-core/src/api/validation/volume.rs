//! The rules of volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, ProjectedVolumeSource, Volume,
};

use super::container::relative_path;
use super::metadata::invalid;
use super::names;
use super::values::{one_of_or_absent, required};
use super::{FieldError, Path};
use super::{env, resources};

const HOST_PATH_TYPES: [&str; 7] =
    ["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks the volumes of a pod, and returns their names.
pub(super) fn volumes<'a>(volumes: &'a [Volume], path: &Path<'_>, errors: &mut Vec<FieldError>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = path.field("name");
        if volume.name.is_empty() {
            errors.push(FieldError::required(&name, ""));
        } else if !seen.insert(volume.name.as_str()) {
            errors.push(FieldError::duplicate(&name, &volume.name));
        }
        if !volume.name.is_empty() {
            invalid(&name, &volume.name, names::dns_1123_label(&volume.name), errors);
        }
        one_source(volume, &path, errors);
        source(volume, &path, errors);
    }
    seen
}

/// A volume is of exactly one sort; the sorts are the fields beside its name.
fn one_source(volume: &Volume, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let fields = serde_json::to_value(volume).expect("a volume is JSON");
    let sources = fields.as_object().into_iter().flatten().map(|(field, _)| field).filter(|field| *field != "name");
    let mut count = 0;
    for field in sources {
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(&path.field(field), "may not specify more than 1 volume type"));
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn source(volume: &Volume, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref()) {
        resources::amount(limit, &path.field("emptyDir").field("sizeLimit"), errors);
    }
    if let Some(host_path) = &volume.host_path {
        self::host_path(host_path, &path.field("hostPath"), errors);
    }
    if let Some(map) = &volume.config_map {
        let path = path.field("configMap");
        required(Some(&map.name), &path.field("name"), errors);
        file_mode(map.default_mode, &path.field("defaultMode"), errors);
        items(map.items.as_deref(), &path.field("items"), errors);
    }
    if let Some(secret) = &volume.secret {
        let path = path.field("secret");
        required(secret.secret_name.as_deref(), &path.field("secretName"), errors);
        file_mode(secret.default_mode, &path.field("defaultMode"), errors);
        items(secret.items.as_deref(), &path.field("items"), errors);
    }
    if let Some(downward) = &volume.downward_api {
        let path = path.field("downwardAPI");
        file_mode(downward.default_mode, &path.field("defaultMode"), errors);
        downward_files(downward.items.as_deref(), &path.field("items"), errors);
    }
    if let Some(projected) = &volume.projected {
        self::projected(projected, &path.field("projected"), errors);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let path = path.field("persistentVolumeClaim");
        required(Some(&claim.claim_name), &path.field("claimName"), errors);
    }
    if let Some(nfs) = &volume.nfs {
        let path = path.field("nfs");
        required(Some(&nfs.server), &path.field("server"), errors);
        required(Some(&nfs.path), &path.field("path"), errors);
        if !nfs.path.starts_with('/') {
            errors.push(FieldError::invalid(&path.field("path"), &nfs.path, "must be an absolute path"));
        }
    }
}

fn host_path(host_path: &HostPathVolumeSource, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    required(Some(&host_path.path), &path.field("path"), errors);
    if host_path.path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(&path.field("path"), &host_path.path, "must not contain '..'"));
    }
    one_of_or_absent(host_path.type_.as_deref(), &HOST_PATH_TYPES, &path.field("type"), errors);
}

fn projected(projected: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    file_mode(projected.default_mode, &path.field("defaultMode"), errors);
    let sources = path.field("sources");
    for (index, source) in projected.sources.iter().flatten().enumerate() {
        let path = sources.index(index);
        if let Some(map) = &source.config_map {
            let path = path.field("configMap");
            required(Some(&map.name), &path.field("name"), errors);
            items(map.items.as_deref(), &path.field("items"), errors);
        }
        if let Some(secret) = &source.secret {
            let path = path.field("secret");
            required(Some(&secret.name), &path.field("name"), errors);
            items(secret.items.as_deref(), &path.field("items"), errors);
        }
        if let Some(downward) = &source.downward_api {
            downward_files(downward.items.as_deref(), &path.field("downwardAPI").field("items"), errors);
        }
        if let Some(token) = &source.service_account_token {
            let path = path.field("serviceAccountToken");
            // Ten minutes, as Kubernetes asks: less, and a token can't be renewed in time.
            if let Some(seconds) = token.expiration_seconds.filter(|seconds| *seconds < 600) {
                let detail = "may not specify a duration less than 10 minutes";
                errors.push(FieldError::invalid(&path.field("expirationSeconds"), seconds, detail));
            }
            file_path(&token.path, &path.field("path"), errors);
        }
    }
}

fn items(items: Option<&[KeyToPath]>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        let path = path.index(index);
        required(Some(&item.key), &path.field("key"), errors);
        file_path(&item.path, &path.field("path"), errors);
        file_mode(item.mode, &path.field("mode"), errors);
    }
}

fn downward_files(files: Option<&[DownwardAPIVolumeFile]>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (index, file) in files.into_iter().flatten().enumerate() {
        let path = path.index(index);
        file_path(&file.path, &path.field("path"), errors);
        file_mode(file.mode, &path.field("mode"), errors);
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(field), None) => env::field_ref(field, &env::VOLUME_FIELDS, &path.field("fieldRef"), errors),
            (None, Some(field)) => env::resource_field_ref(field, true, &path.field("resourceFieldRef"), errors),
            (Some(_), Some(_)) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(&path, "resource", detail));
            }
            (None, None) => {
                let detail = "one of fieldRef and resourceFieldRef is required";
                errors.push(FieldError::required(&path, detail));
            }
        }
    }
}

fn file_path(text: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    required(Some(text), path, errors);
    relative_path(text, path, errors);
    if text.starts_with("..") && !text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, text, "must not start with '..'"));
    }
}

fn file_mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(FieldError::invalid(path, mode, FILE_MODE));
    }
}
