from visage.data.face_factors import DISTRIBUTIONS, sample_factors
from visage.evaluation.codes import chosen_factors


def test_chosen_factors_are_those_of_drawn_faces_and_of_the_right_kind():
    drawn = [sample_factors(0, i, i) for i in range(100)]
    chosen = chosen_factors(list(DISTRIBUTIONS))
    assert 12 <= len(chosen) <= 20
    for factor in chosen:
        values = {getattr(face, factor.name) for face in drawn}
        whole = all(value == int(value) for value in values)
        assert len(values) > 1
        assert factor.categorical == whole, factor
    assert [factor.name for factor in chosen_factors(["yaw", "skin", "other"])] == ["skin", "yaw"]
    assert chosen_factors([]) == []
