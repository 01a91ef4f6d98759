//! The defaults of volumes.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EmptyDirVolumeSource, PersistentVolumeClaimSpec, ProjectedVolumeSource, Volume,
};

/// The mode of files made of configuration: 0644.
const FILE_MODE: i32 = 0o644;
/// How long a projected service-account token lasts.
const TOKEN_SECONDS: i64 = 3600;

/// Fills in a volume; one without any source is an empty directory.
pub(super) fn volume(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        downward_files(downward.items.as_deref_mut());
    }
    volume.projected.iter_mut().for_each(projected);
    if let Some(path) = &mut volume.host_path {
        path.type_.get_or_insert_default();
    }
    if let Some(iscsi) = &mut volume.iscsi {
        iscsi.iscsi_interface.get_or_insert_with(|| "default".to_owned());
    }
    if let Some(image) = &mut volume.image {
        let floating = !image.reference.as_deref().unwrap_or_default().contains(['@']);
        let tagged = image.reference.as_deref().is_some_and(|reference| {
            reference.rsplit('/').next().is_some_and(|last| last.contains(':') && !last.ends_with(":latest"))
        });
        let policy = if floating && !tagged { "Always" } else { "IfNotPresent" };
        image.pull_policy.get_or_insert_with(|| policy.to_owned());
    }
    let template = volume.ephemeral.as_mut().and_then(|ephemeral| ephemeral.volume_claim_template.as_mut());
    if let Some(template) = template {
        claim(&mut template.spec);
    }
}

/// Fills in the claim of a persistent volume.
pub(super) fn claim(claim: &mut PersistentVolumeClaimSpec) {
    claim.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
}

fn projected(projected: &mut ProjectedVolumeSource) {
    projected.default_mode.get_or_insert(FILE_MODE);
    for source in projected.sources.iter_mut().flatten() {
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
        if let Some(downward) = &mut source.downward_api {
            downward_files(downward.items.as_deref_mut());
        }
    }
}

fn downward_files(files: Option<&mut [DownwardAPIVolumeFile]>) {
    for field in files.into_iter().flatten().filter_map(|file| file.field_ref.as_mut()) {
        field.api_version.get_or_insert_with(|| "v1".to_owned());
    }
}

fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}
