;;; talaria.el --- Ghost text from a local diffusion model -*- lexical-binding: t; -*-

;; Author: The Talaria developers
;; Version: 0.1.0
;; Package-Requires: ((emacs "29.1"))
;; Keywords: convenience, languages, tools
;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; Shows suggestions of Talaria's language server as ghost text after the cursor, accepts all, a
;; word or a line of it, and runs the server's commands that write functions and regions.  The
;; connection is lsp-mode's (see talaria-lsp.el) or Eglot's (see talaria-eglot.el):
;;
;;   (require 'talaria-lsp)      ; and (add-hook 'python-base-mode-hook #'lsp-deferred)
;;   (add-hook 'python-base-mode-hook #'talaria-eglot)      ; or Eglot
;;
;; While the suggested text is typed, the rest stays without asking the server.

;;; Code:

(require 'cl-lib)
(require 'subr-x)

(defgroup talaria nil
  "Ghost text from a local diffusion model."
  :group 'convenience
  :prefix "talaria-")

(defcustom talaria-server-command nil
  "The command that starts the server, a list of strings.
The default is `talaria lsp', with the program found on the variable
`exec-path', in the folder .venv of the clone that contains this package,
or, if you agree, in that of the project."
  :type '(choice (const :tag "Find it" nil) (repeat string))
  :risky t)

(defconst talaria--options
  '((enabled boolean "offer suggestions at all")
    (languages (repeat string) "in which suggestions appear automatically")
    (exclude (repeat string) "patterns of files that are never read")
    (model string "a model's folder or name")
    (offer_fetch boolean "offer to fetch the large model")
    (device string "cpu, cuda or mps")
    (mode (choice (const "diffuse") (const "verify") (const "ar")) "decoding mode")
    (confidence_threshold number "commit tokens of at least this confidence")
    (until (choice (const "line") (const "statement") (const "block"))
           "end suggestions no later than the end of this")
    (max_tokens natnum "longest suggestion while typing")
    (candidates natnum "candidates to choose from")
    (least_confidence number "only what is at least this sure is shown")
    (deadline_ms natnum "deadline while typing")
    (fill_deadline_ms natnum "deadline of commands")
    (debounce_ms natnum "wait this long after each key")
    (strings boolean "offer suggestions inside strings")
    (comments boolean "offer suggestions inside comments")
    (related_files boolean "show the model excerpts of other files")
    (completion boolean "offer suggestions in completion lists too")
    (usage boolean "count suggestions, on this machine only")
    (endpoint string "URL of a service to ask first")
    (endpoint_model string "model that the service should use")
    (endpoint_key_variable string "environment variable with its API key")
    (endpoint_timeout_ms natnum "timeout of the service"))
  "The options that can be customized: name, type, description.")

(defcustom talaria-options nil
  "Options of the server, pairs of a name and a value.
An option that is missing is left to the server, and so is nil where a
string or a number is expected.  `talaria lsp --help' lists all options.
They take effect when the server starts."
  :type `(set ,@(mapcar (pcase-lambda (`(,name ,type ,what))
                          `(cons :tag ,(format "%s: %s" name what)
                                 :format "%t: %v"
                                 (const :format "" ,name) ,type))
                        talaria--options))
  ;; A project's settings must not send text elsewhere.
  :risky t)

(defcustom talaria-delay 0.03
  "Seconds after a key before asking the server, which may wait longer."
  :type 'number)

(defface talaria-ghost
  '((((min-colors 88)) :inherit shadow)
    ;; With fewer colours, `shadow' is green or yellow.
    (((class color) (min-colors 16)) :foreground "brightblack")
    (((background light)) :foreground "black" :weight light)
    (t :foreground "white" :weight light))
  "Face of ghost text; a light weight is dim in a terminal.")

(defvar-local talaria-client nil
  "The client of this buffer: a symbol on which the generic functions dispatch.")

(cl-defgeneric talaria-server (client)
  "Return the server that CLIENT has for this buffer; nil if there is none.")

(cl-defgeneric talaria-place (client position)
  "Return this buffer's URI and POSITION as CLIENT writes them, a plist.")

(cl-defgeneric talaria-send (client method params &optional then)
  "Send METHOD with PARAMS through CLIENT.
THEN is called with the result; without it, this is a notification.")

;;; The server's program and options

(defconst talaria--folder
  (file-name-directory (or load-file-name buffer-file-name default-directory))
  "The folder of this package.")

(defvar talaria--trusted nil
  "Programs in projects and whether they may be run, a list of pairs.")

(defun talaria-find-command ()
  "Return the command to start the server, a list; nil if there is none."
  (or talaria-server-command
      (when-let* ((program (or (executable-find "talaria")
                               (talaria--program-near talaria--folder)
                               (talaria--project-program))))
        (list program "lsp"))))

(defun talaria--program-near (folder)
  "Return the program in the virtual environment of FOLDER or one above it."
  (when-let* ((found (locate-dominating-file folder ".venv/bin/talaria")))
    (expand-file-name ".venv/bin/talaria" found)))

(defun talaria--project-program ()
  "Return the program in the project's .venv, if the user agrees to run it."
  (when-let* ((program (talaria--program-near default-directory)))
    (unless (assoc program talaria--trusted)
      (push (cons program (y-or-n-p (format "Talaria: run %s of this project? " program)))
            talaria--trusted))
    (and (cdr (assoc program talaria--trusted)) program)))

(defun talaria--option (name value)
  "Return VALUE of the option NAME as JSON for the server; nil if it is not set."
  (cond ((consp value) (vconcat value))
        ((memq value '(t :json-false)) value)
        ((and value (symbolp value)) (symbol-name value))
        (value)
        ;; The type decides what nil means; an option that is not listed is a switch.
        (t (pcase (car (alist-get name talaria--options '(boolean)))
             ('boolean :json-false)
             (`(repeat ,_) [])))))

(defun talaria-initialization-options (&rest _)
  "Return the initializationOptions of the server, a plist."
  (let (found)
    ;; The first of two wins.  There is ghost text, so completion lists are off by default.
    (pcase-dolist (`(,name . ,value) (append talaria-options '((status . t) (completion . nil))))
      (let ((key (intern (format ":%s" name)))
            (value (talaria--option name value)))
        (unless (or (null value) (plist-member found key))
          (setq found (append found (list key value))))))
    found))

(defun talaria-failed (code message)
  "Show MESSAGE of a failed request, unless its CODE means cancelled or superseded."
  (unless (memql code '(-32800 -32801))
    (message "Talaria: %s" message)))

(defun talaria--field (object name)
  "Return the field NAME of OBJECT, a hash table or a plist."
  (if (hash-table-p object)
      (gethash name object)
    (plist-get object (intern (concat ":" name)))))

;;; The server's state, in the mode line

(defvar talaria--states (make-hash-table :test #'eq :weakness 'key)
  "The state and message that each server last reported, a pair.")

(defvar talaria--off nil
  "Languages in which suggestions are switched off; an empty string means all.")

(defvar talaria--synced (make-hash-table :test #'eq :weakness 'key)
  "The value of `talaria--off' that each server knows.")

(defun talaria-set-state (server state message)
  "Store STATE and MESSAGE that SERVER sent by `talaria/status'."
  (puthash server (cons state message) talaria--states)
  (force-mode-line-update t))

(defun talaria--language ()
  "Return the server's name for this buffer's language."
  (replace-regexp-in-string "\\(-ts\\)?-mode\\'" "" (symbol-name major-mode)))

(defun talaria--state-and-message ()
  "Return the state of this buffer's server and a message; nil if there is none."
  (when-let* ((server (and talaria-client (talaria-server talaria-client))))
    (if (or (member "" talaria--off) (member (talaria--language) talaria--off))
        '("off" . "")
      (gethash server talaria--states '("loading" . "")))))

(defun talaria--state ()
  "Return the state of this buffer's server; nil if there is none."
  (car (talaria--state-and-message)))

(defun talaria--sync ()
  "Tell this buffer's server what is new in `talaria--off' since the last time.
A server that has just started knows of none."
  (let ((server (talaria-server talaria-client)))
    (dolist (name (cl-set-exclusive-or talaria--off (gethash server talaria--synced) :test #'equal))
      (talaria-send talaria-client "workspace/executeCommand"
                    (list :command "talaria.toggle" :arguments (vector name)) #'ignore))
    (puthash server talaria--off talaria--synced)))

(defun talaria--lighter ()
  "Return the string for the mode line."
  (pcase-let* ((`(,state . ,message) (or (talaria--state-and-message) '("no server" . "")))
               (mark (pcase state ("ready" "") ("busy" "*") ("off" "-") ("failed" "!")
                            ("loading" "…") (_ "?"))))
    (propertize (concat " Talaria" mark)
                'help-echo (string-trim-right (format "Talaria: %s  %s" state message)))))

;;; Ghost text

(defvar-local talaria--texts nil "The rest of each suggestion; the first is shown.")
(defvar-local talaria--several nil "Whether several suggestions were requested.")
(defvar-local talaria--overlay nil "The overlay with the ghost text.")
(defvar-local talaria--start nil "The position of the ghost text.")
(defvar-local talaria--size nil "The size of the buffer when it was shown.")
(defvar-local talaria--tick nil "The modification tick before the current command.")
(defvar-local talaria--timer nil "The timer that will ask the server.")

(defvar-keymap talaria-ghost-map
  :doc "Keys while there is ghost text."
  "TAB" #'talaria-accept
  "<tab>" #'talaria-accept
  "M-f" #'talaria-accept-word
  "C-e" #'talaria-accept-line
  "M-n" #'talaria-next
  "M-p" #'talaria-previous
  "C-g" #'talaria-dismiss)

(unless (assq 'talaria--texts minor-mode-map-alist)
  ;; After the keys of open completion lists.
  (push (cons 'talaria--texts talaria-ghost-map) minor-mode-map-alist))

;;;###autoload
(define-minor-mode talaria-ghost-mode
  "Show suggestions of Talaria as ghost text; the client turns this mode on."
  :lighter (:eval (talaria--lighter))
  (talaria--hide)
  (talaria--before-command)
  (if talaria-ghost-mode
      (progn
        (add-hook 'pre-command-hook #'talaria--before-command nil t)
        (add-hook 'post-command-hook #'talaria--after-command nil t)
        (add-hook 'after-change-functions #'talaria--after-change nil t))
    (remove-hook 'pre-command-hook #'talaria--before-command t)
    (remove-hook 'post-command-hook #'talaria--after-command t)
    (remove-hook 'after-change-functions #'talaria--after-change t)))

(defun talaria-attend (client &optional native)
  "Show ghost text in this buffer if CLIENT has a server for it, else none.
With NATIVE, CLIENT draws it."
  (cond ((talaria-server client)
         (setq-local talaria-client client)
         (talaria--sync)
         (unless (or native talaria-ghost-mode)
           (talaria-ghost-mode 1)))
        ((eq talaria-client client)
         (talaria-ghost-mode -1))))

(defun talaria--show (texts)
  "Show the first of TEXTS at point and store the others."
  (setq talaria--texts texts
        talaria--start (point)
        talaria--size (buffer-size))
  (unless talaria--overlay
    (setq talaria--overlay (make-overlay (point) (point))))
  (move-overlay talaria--overlay (point) (point) (current-buffer))
  (let ((shown (propertize (car texts) 'face 'talaria-ghost)))
    ;; Keep the cursor before the ghost text; it cannot be on a newline.
    (when (string-prefix-p "\n" shown)
      (setq shown (concat " " shown)))
    (put-text-property 0 1 'cursor t shown)
    (overlay-put talaria--overlay 'after-string shown)
    (overlay-put talaria--overlay 'priority 100)))

(defun talaria--hide ()
  "Remove the ghost text."
  (when talaria--timer
    (cancel-timer talaria--timer))
  (when talaria--overlay
    (delete-overlay talaria--overlay))
  (setq talaria--texts nil talaria--overlay nil talaria--timer nil))

(defun talaria--before-command ()
  "Store the modification tick before a command."
  (setq talaria--tick (buffer-chars-modified-tick)))

(defun talaria--after-command ()
  "Keep ghost text that still fits; ask the server after a change."
  (let ((changed (not (eql talaria--tick (buffer-chars-modified-tick)))))
    (when talaria--texts
      (let ((rests (if changed (talaria--rests) (and (= (point) talaria--start) talaria--texts))))
        (cond ((null rests) (talaria--hide))
              (changed (talaria--show rests)))))
    (when (and changed (null talaria--texts) (not (memq this-command '(undo undo-only undo-redo))))
      (when talaria--timer
        (cancel-timer talaria--timer))
      (setq talaria--timer
            (run-with-timer talaria-delay nil #'talaria--ask (current-buffer))))))

(defun talaria--after-change (&rest _)
  "Remove the ghost text after a change that no command made."
  (when (and talaria--texts (null this-command))
    (talaria--hide)))

(defun talaria--rests ()
  "Return the rest of the suggestions that start with the typed text."
  (let ((typed (- (point) talaria--start)))
    (when (and (> typed 0) (= typed (- (buffer-size) talaria--size)))
      (let ((new (buffer-substring-no-properties talaria--start (point))))
        (cl-loop for text in talaria--texts
                 when (and (string-prefix-p new text) (length> text typed))
                 collect (substring text typed))))))

(defun talaria--ask (buffer &optional invoked)
  "Request ghost text at point in BUFFER, if it is the current one.
With INVOKED, request several suggestions."
  (when (eq buffer (window-buffer))
    (with-current-buffer buffer
      (setq talaria--timer nil)
      (when (and talaria-ghost-mode
                 ;; Without a model, an endpoint may still answer.
                 (not (member (talaria--state) (if invoked '(nil) '(nil "off"))))
                 (not buffer-read-only)
                 (not (use-region-p)))
        (talaria--sync)
        (let ((tick (buffer-chars-modified-tick))
              (place (point))
              (at (talaria-place talaria-client (point))))
          (talaria-send
           talaria-client "textDocument/inlineCompletion"
           (list :textDocument (list :uri (plist-get at :uri))
                 :position (plist-get at :position)
                 :context (list :triggerKind (if invoked 1 2)))
           (lambda (result)
             ;; Drop the answer if the text has changed.
             (when (and (buffer-live-p buffer) (eq buffer (window-buffer)))
               (with-current-buffer buffer
                 (when (and talaria-ghost-mode
                            (= tick (buffer-chars-modified-tick))
                            (= place (point)))
                   (talaria--answered result invoked)))))))))))

(defun talaria--answered (result invoked)
  "Show what is in RESULT; INVOKED as in `talaria--ask'."
  (let ((texts (cl-loop for item across (vconcat result)
                        collect (talaria--field item "insertText"))))
    (when (and invoked talaria--texts (equal (car texts) (car talaria--texts)))
      ;; That one is already on screen.
      (setq texts (append (cdr texts) (list (car texts)))))
    (cond (texts
           (setq talaria--several (and invoked t))
           (talaria--show texts)
           (when invoked
             (talaria--tell (if (cdr texts) (format "%d suggestions" (length texts))
                              "this is the only suggestion"))))
          (invoked (talaria--tell "nothing to offer here"))))
  ;; The answer arrived while Emacs waited for a key.
  (redisplay))

(defun talaria--tell (message)
  "Show MESSAGE without logging it."
  (let ((message-log-max nil))
    (message "Talaria: %s" message)))

(defun talaria--take (pattern)
  "Insert the part of the ghost text that PATTERN matches, or all of it."
  (let ((text (or (car talaria--texts) (user-error "Talaria: there is no ghost text"))))
    (insert (if (and pattern (string-match (concat "\\`\\(?:" pattern "\\)") text))
                (match-string 0 text)
              text))))

(defun talaria-accept ()
  "Accept all of the ghost text."
  (interactive "*")
  (talaria--take nil))

(defun talaria-accept-word ()
  "Accept the next word or punctuation of the ghost text."
  (interactive "*")
  (talaria--take "[ \t\n]*\\(?:[[:alnum:]_]+\\|[^[:alnum:]_ \t\n]+\\)[ \t]*"))

(defun talaria-accept-line ()
  "Accept the rest of the ghost text's line; at its end, the next line."
  (interactive "*")
  (talaria--take "\n*[^\n]+"))

(defun talaria-next (&optional back)
  "Show the next suggestion, or with BACK the previous one.
The first time, request several."
  (interactive)
  (cond ((not (and talaria--texts talaria--several))
         (talaria-complete))
        (back
         (talaria--show (append (last talaria--texts) (butlast talaria--texts))))
        (t
         (talaria--show (append (cdr talaria--texts) (list (car talaria--texts)))))))

(defun talaria-previous ()
  "Show the previous suggestion."
  (interactive)
  (talaria-next t))

(defun talaria-dismiss ()
  "Dismiss the ghost text; it is not shown automatically again."
  (interactive)
  (talaria--hide)
  (talaria-send (talaria--client) "talaria/didDismiss" (list :uri (talaria--uri)))
  (talaria--tell "dismissed"))

;;;###autoload
(defun talaria-complete ()
  "Request several suggestions at point."
  (interactive)
  (talaria--client)
  (talaria--ask (current-buffer) t))

;;; Server commands

(defun talaria--client ()
  "Return the client of this buffer; signal an error without a server."
  (if (and talaria-client (talaria-server talaria-client))
      talaria-client
    (user-error "Talaria: no server in this buffer; start `lsp' or `talaria-eglot'")))

(defun talaria--execute (command arguments &optional then)
  "Have the server execute COMMAND with ARGUMENTS; call THEN with the result."
  (let ((client (talaria--client)))
    (talaria--hide)
    (talaria-send client "workspace/executeCommand"
                  (list :command (concat "talaria." command) :arguments (vconcat arguments))
                  (or then #'ignore))))

(defun talaria--place (position)
  "Return this buffer's URI and POSITION; signal an error without a server."
  (talaria-place (talaria--client) position))

(defun talaria--uri ()
  "Return the URI of this buffer."
  (plist-get (talaria--place (point)) :uri))

(defun talaria--write (command place)
  "Run the server's COMMAND that writes at PLACE."
  (talaria--tell "writing...")
  (talaria--execute command (list place)))

(defun talaria-act (action)
  "Run the server command of the code action ACTION.
Do not wait for it, since it may take longer than the client's timeout."
  (talaria--tell "writing...")
  (talaria--execute (string-remove-prefix "talaria." (talaria--field action "command"))
                    (talaria--field action "arguments")))

;;;###autoload
(defun talaria-fill-function ()
  "Write the body of the function around point."
  (interactive "*")
  (talaria--write "fillFunction" (talaria--place (point))))

;;;###autoload
(defun talaria-fill-here ()
  "Fill in the placeholder on this line: `...', `pass', a TODO."
  (interactive "*")
  (talaria--write "fillHere" (talaria--place (point))))

;;;###autoload
(defun talaria-rewrite (start end)
  "Rewrite the text between START and END."
  (interactive "*r")
  (talaria--write "rewrite"
                  (list :uri (talaria--uri)
                        :range (list :start (plist-get (talaria--place start) :position)
                                     :end (plist-get (talaria--place end) :position))))
  (deactivate-mark))

;;;###autoload
(defun talaria-next-candidate ()
  "Replace the text that the server wrote last with the next candidate."
  (interactive "*")
  (talaria--execute "nextCandidate" (list (talaria--uri))))

;;;###autoload
(defun talaria-show-trace ()
  "Replay the last answer in a browser."
  (interactive)
  (talaria--execute "showTrace" (list (talaria--uri))))

;;;###autoload
(defun talaria-toggle (&optional language)
  "Toggle suggestions.
With a prefix argument LANGUAGE, only in this language."
  (interactive "P")
  (let* ((name (if language (talaria--language) ""))
         (on (member name talaria--off)))
    (setq talaria--off (if on (remove name talaria--off) (cons name talaria--off)))
    (talaria--hide)
    (when (talaria--state)
      (talaria--sync))
    (force-mode-line-update t)
    (talaria--tell (format "suggestions%s are %s"
                           (if language (concat " in " name) "") (if on "on" "off")))))

;; Clients would ask in the minibuffer, which would take keys that are meant for the text.
(defvar talaria--offer nil
  "The server's question whether to fetch the large model, and the answers to it.")

(defun talaria-offered (question actions)
  "Keep the server's QUESTION with its ACTIONS for `talaria-fetch'."
  (setq talaria--offer
        (cons question (mapcar (lambda (action) (talaria--field action "title")) actions)))
  (message "Talaria: a better model can be fetched, see M-x talaria-fetch"))

;;;###autoload
(defun talaria-fetch ()
  "Answer the server's offer to fetch the large model, or fetch it unasked."
  (interactive)
  (let ((answer (if talaria--offer
                    (completing-read (concat (car talaria--offer) " ") (cdr talaria--offer) nil t)
                  "Fetch")))
    (unless (string-empty-p answer)
      (talaria--execute "fetch" (list answer)))))

;;;###autoload
(defun talaria-status ()
  "Show the state of the server, which model answers, and why.
Also the number of requests."
  (interactive)
  (let ((state (talaria--state)))
    (talaria--execute
     "status" nil
     (lambda (result)
       (let* ((engine (talaria--field result "engine"))
              (model (talaria--field engine "model"))
              (answers (format "%s answers" model))
              (choice (talaria--field engine "choice")))
         (talaria--tell (format "%s, %s requests in this session%s%s"
                                state
                                (or (talaria--field engine "requests") 0)
                                (if (and model (not (string-search answers (or choice ""))))
                                    (concat "; " answers)
                                  "")
                                (if choice (concat "; " choice) ""))))))))

(provide 'talaria)
;;; talaria.el ends here
