# The encoder of examples/text, small, on generated sentences: model.xml with its data, and its settings `small`.
sed 's/weights="minilm" init="partial"//' "$PTC_SOURCE_DIR/examples/text/minilm-banking77.xml" >model.xml
cp -r "$fixtures/reviews" minilm
mkdir banking77

# 90 and 40 sentences of 1 to 20 words, with the number of "good" in three classes.
sentences() # FIRST N
{
    awk -v first="$1" -v n="$2" 'BEGIN {
        split("a bad cast film first funny good great last minute the to warm was with", word, " ")
        print "text,category"
        for (s = first; s < first + n; s++) {
            line = ""; goods = 0
            for (i = 0; i <= s * 7 % 20; i++) {
                w = word[(s * 31 + i * i * 17) % 15 + 1]
                goods += w == "good"
                line = line (i ? " " : "") w
            }
            print line "," (goods > 2 ? 2 : goods)
        }
    }'
}
sentences 0 90 >banking77/train.csv
sentences 500 40 >banking77/test.csv

small=(--set=vocabulary=565 --set=positions=24 --set=tokens=24 --set=d=16 --set=heads=2 --set=hidden=32
    --set=classes=3 --set=train.batch=8 --set=data.group_by_length=4)
