"""What holds of all that is rendered."""

from kube_ray_objects import all_manifests, kube_ray_deployment


def test_every_child_goes_with_its_owner_and_says_whose_it_is() -> None:
    for manifest in all_manifests(kube_ray_deployment(shards=2)):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert (owner["name"], owner["uid"], owner["controller"]) == ("tiny", "u-1", True)
        assert manifest["metadata"]["labels"]["moe-operator.io/deployment"] == "tiny"
