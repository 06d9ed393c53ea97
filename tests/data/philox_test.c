/* Philox4x32-10 against the known answers that its authors publish (Random123, kat_vectors). */
#include "data_test.h"

#include "base/philox.h"

static void test_known_answers(void **state)
{
    (void)state;
    static const struct
    {
        uint32_t ctr[4], key[2], out[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
    {
        uint32_t out[4];
        philox4x32(vectors[i].ctr, vectors[i].key, out);
        assert_memory_equal(out, vectors[i].out, sizeof out);
    }
}

static void test_units_stay_below_one(void **state)
{
    (void)state;
    assert_true(philox_unit_f32(0) == 0.0f);
    assert_true(philox_unit_f32(UINT32_MAX) < 1.0f);
    assert_true(philox_unit_f64(0, 0) == 0.0);
    assert_true(philox_unit_f64(UINT32_MAX, UINT32_MAX) < 1.0);
    assert_true(philox_unit_f64(UINT32_C(1) << 31, 0) == 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_units_stay_below_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
