import torch
from sklearn.linear_model import LinearRegression

from visage.maths.regression import regression


def data(n=200):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (n, 4), generator=g).double()
    return y, torch.randn(n, 12, generator=g).double() + y @ torch.randn(4, 12, generator=g).double() + 0.5


def test_it_is_the_least_squares_of_scikit_learn():
    y, x = data()
    M, m = regression(y, x)
    expected = LinearRegression().fit(y.numpy(), x.numpy())
    torch.testing.assert_close(M, torch.from_numpy(expected.coef_))
    torch.testing.assert_close(m, torch.from_numpy(expected.intercept_))


def test_an_attribute_that_all_have_and_one_that_repeats_another_leave_it_the_smallest_map():
    y, x = data()
    M, m = regression(torch.cat([y, torch.ones(len(y), 1).double(), y[:, :1]], dim=1), x)
    once, offset = regression(y, x)
    assert M[:, 4].abs().max() < 1e-9
    torch.testing.assert_close(M[:, 0], once[:, 0] / 2)
    torch.testing.assert_close(M[:, 5], once[:, 0] / 2)
    torch.testing.assert_close(m, offset)
